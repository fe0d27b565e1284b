/**
 * Signatures against the examples in AWS's documentation of Signature Version 4 for S3, and, for uploads in parts, of
 * which it has none, against what AWS's own client for Python (botocore 1.43.11, `S3SigV4Auth`) makes of the same requests.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { EMPTY_PAYLOAD_HASH, escapeStrictly, signedHeaders } from './s3-signature.ts'

const credentials = {
  accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
  secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY',
}
const HOST = 'https://examplebucket.s3.amazonaws.com'

function signatureOf(
  method: string,
  url: string,
  headers: Readonly<Record<string, string>> = {},
  payloadHash: string = EMPTY_PAYLOAD_HASH,
  sessionToken: string | null = null,
): string | undefined {
  const request = { method, url: new URL(url), headers, payloadHash }
  const signed = signedHeaders(request, { ...credentials, sessionToken }, 'us-east-1', Date.UTC(2013, 4, 24))
  return /Signature=([0-9a-f]{64})$/.exec(signed['authorization']!)?.[1]
}

test('an object is read in part', () => {
  assert.equal(
    signatureOf('GET', `${HOST}/test.txt`, { range: 'bytes=0-9' }),
    'f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41',
  )
})

test('an object is written, with a name that has to be escaped', () => {
  const headers = { date: 'Fri, 24 May 2013 00:00:00 GMT', 'x-amz-storage-class': 'REDUCED_REDUNDANCY' }
  const body = createHash('sha256').update('Welcome to Amazon S3.').digest('hex')
  assert.equal(
    signatureOf('PUT', `${HOST}/${escapeStrictly('test$file.text')}`, headers, body),
    '98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd',
  )
})

test('a query is part of what is signed, in order and without values too', () => {
  assert.equal(
    signatureOf('GET', `${HOST}/?prefix=J&max-keys=2`),
    '34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7',
  )
  assert.equal(
    signatureOf('GET', `${HOST}/?lifecycle`),
    'fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543',
  )
})

test('an upload in parts: begun, sent, completed, given up and listed', () => {
  const object = `${HOST}/job/shared/00ff`
  const id = `uploadId=${escapeStrictly('VXBsb2FkIElE.a_b-c~d+e/f=')}`
  const hashOf = (text: string): string => createHash('sha256').update(text).digest('hex')
  assert.equal(
    signatureOf('POST', `${object}?uploads=`),
    'd2e383d57359c698b7ef3de25980b0977b3d76a58a5ad3ef9235cf55ad75758c',
  )
  assert.equal(
    signatureOf('PUT', `${object}?partNumber=10&${id}`, {}, hashOf('part')),
    'e9fad63715dddb5de1edefca7ef4e35489bd00f71e5f823316ef8e3ea7702c86',
  )
  assert.equal(
    signatureOf('POST', `${object}?${id}`, {}, hashOf('<CompleteMultipartUpload/>')),
    'df75cb9e6b2c346ef93cd89af240f90cca117c81ebdce440b2b31d36712f5e92',
  )
  assert.equal(
    signatureOf('DELETE', `${object}?${id}`, {}, EMPTY_PAYLOAD_HASH, 'session/token+='),
    '65eea8b0d1d9a03a8c2fed6638ccfe8bb9197851a53d1489b651f140d447728b',
  )
  assert.equal(
    signatureOf('GET', `${HOST}/?key-marker=a+b&uploads=&prefix=job%2Fshared%2F&upload-id-marker=7`),
    'eab1975448e19d95f9ea298fbfddbf13c39c195cb37ef04e44c44cc2caf4b908',
  )
})
