// Decompression of the page's data, which are zlib streams in base64.

async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const inflated = new Map(); // index of a payload -> promise of its bytes

function payload(index) {
  if (!inflated.has(index)) {
    inflated.set(index, inflate(report.masks.payloads[index]).then((b) => new Uint8Array(b)));
  }
  return inflated.get(index);
}
