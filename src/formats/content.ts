/** What a file is, by its first bytes: never by its name. */
import { ModelFormatError } from '../common/errors.js';
import { OPEN_OBJECT } from './safetensors/json-bytes.js';

export type Container = 'safetensors' | 'torch' | 'index';

/** So many bytes decide. */
export const FIRST_BYTES = 512;

/** The limit of the safetensors reference reader; a larger number is no length of a header. */
const MAX_HEADER_BYTES = 100_000_000n;
/** Where the header begins, after its length. */
const HEADER_AT = 8;
/** Old archives of tar write their name here. */
const TAR_MARK = { position: 257, text: 'ustar' } as const;
/** Pickles of protocols 0 and 1 are text: an import, or a list, table or tuple. */
const TEXT_PICKLE = /^(c[\w.]+\n[\w.]+\n|\(?[dlp]\d*\n|\(i[\w.]+\n[\w.]+\n|\([cdl])/;

/** Files that people have in place of a model; first match wins. */
const FOREIGN: readonly (readonly [(text: string, bytes: Uint8Array) => boolean, string])[] = [
  [(_text, bytes) => bytes.length === 0, 'it is empty: an interrupted download?'],
  [(text) => text.startsWith('GGUF'), 'it is a GGUF file, which holds quantised language and diffusion models'],
  [
    (text) => text.startsWith('version https://git-lfs'),
    'it is a Git LFS pointer: run "git lfs pull" where it was cloned',
  ],
  [
    (text) => /^\s*<(!doctype|html|\?xml|head|body|script)/i.test(text),
    'it is a web page: the download got a login or error page instead of the model',
  ],
  [
    (text) => text.slice(TAR_MARK.position).startsWith(TAR_MARK.text),
    'it is a tar archive, as PyTorch wrote before 0.1.10: load it in PyTorch once and save it again',
  ],
  [(text) => text.startsWith('7z\u00bc\u00af\u0027\u001c'), 'it is a 7-Zip archive: unpack it first'],
  [(text) => text.startsWith('Rar!'), 'it is a RAR archive: unpack it first'],
  [(text) => text.startsWith('\u001f\u008b'), 'it is packed by gzip: unpack it first'],
  [(text) => text.startsWith('\u0089HDF'), 'it is an HDF5 file, as Keras writes'],
  [(text) => text.startsWith('\u0093NUMPY'), 'it is a NumPy array'],
  [(text) => text.startsWith('ggml') || text.startsWith('lmgg') || text.startsWith('tjgg'), 'it is an old GGML file'],
  [isOnnx, 'it is an ONNX file; encoders are read from their safetensors or PyTorch files'],
];

/** Whether these first bytes begin a safetensors document: the length of its header, and a brace. */
export function isSafetensors(first: Uint8Array): boolean {
  return beginsWithLength(first) && first[HEADER_AT] === OPEN_OBJECT;
}

function beginsWithLength(first: Uint8Array): boolean {
  const bytes = Buffer.from(first.buffer, first.byteOffset, first.byteLength);
  return bytes.length >= HEADER_AT && bytes.readBigUInt64LE() <= MAX_HEADER_BYTES;
}

/**
 * The container that these first bytes begin.
 *
 * What cannot be told is taken for safetensors, whose reader says what is wrong.
 *
 * @throws {ModelFormatError} `MODEL_FORMAT_UNSUPPORTED`, saying what the file is instead.
 */
export function containerOf(first: Uint8Array, label: string): Container {
  const bytes = Buffer.from(first.buffer, first.byteOffset, first.byteLength);
  const text = bytes.toString('latin1');
  // Before the others: the length of a header may have the bytes of any mark.
  if (isSafetensors(first)) return 'safetensors';
  const foreign = FOREIGN.find(([test]) => test(text, bytes));
  if (foreign !== undefined) {
    throw new ModelFormatError('MODEL_FORMAT_UNSUPPORTED', `${label} is not a model that is read: ${foreign[1]}.`, {
      details: { file: label, problem: foreign[1] },
    });
  }
  if (text.startsWith('PK\u0003\u0004')) return 'torch';
  // Pickles do not go on with zeros.
  if (beginsWithLength(first)) return 'safetensors';
  if (bytes[0] === 0x80 && (bytes[1] ?? 0) >= 1 && (bytes[1] ?? 0) <= 5) return 'torch';
  if (TEXT_PICKLE.test(text)) return 'torch';
  return /^\s*\{/.test(text) ? 'index' : 'safetensors';
}

/** Field 1, the version of the format, then field 2 or 7: the producer, or the graph itself. */
function isOnnx(_text: string, bytes: Uint8Array): boolean {
  return bytes[0] === 0x08 && (bytes[1] ?? 0) >= 1 && (bytes[1] ?? 0) <= 20 && (bytes[2] === 0x12 || bytes[2] === 0x3a);
}
