/**
 * What a pickle asks Python to import, and what to think of it.
 *
 * `harmless` is what ComfyUI's own restricted loader lets through: torch's list of safe names and ComfyUI's additions.
 * `dangerous` names reach the system, the network or the interpreter. Everything else is `unknown`: a class of somebody's
 * code, which Python would run.
 *
 * Source: torch/_weights_only_unpickler.py (names only); ComfyUI, comfy/utils.py, `add_safe_globals`.
 */
import { STORAGE_DTYPES, TORCH_DTYPES } from '../torch/dtypes.js';

type ImportVerdict = 'harmless' | 'dangerous' | 'unknown';

export interface PickleImport {
  /** `module.name`, as the pickle spells it. */
  readonly name: string;
  readonly verdict: ImportVerdict;
}

/** A name that the pickle puts together while it is read: there is no honest reason to. */
export const COMPUTED_NAME = '(a computed name)';

const HARMLESS = new Set([
  'collections.OrderedDict',
  'collections.Counter',
  'torch.Size',
  'torch.Tensor',
  'torch.device',
  'torch._tensor._rebuild_from_type_v2',
  'torch.nn.parameter.Parameter',
  'torch.serialization._get_layout',
  'torch.storage.TypedStorage',
  'torch.storage.UntypedStorage',
  'torch.per_tensor_affine',
  'torch.per_tensor_symmetric',
  'torch.per_channel_affine',
  'torch.per_channel_symmetric',
  'torch.per_channel_affine_float_qparams',
  '_codecs.encode',
  'builtins.bytearray',
  'builtins.complex',
  'builtins.set',
  'numpy.dtype',
  'numpy.dtypes.Float64DType',
  'numpy.core.multiarray.scalar',
  'numpy._core.multiarray.scalar',
  'pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint',
]);

/** torch's functions that put tensors together from data; those that we do not follow make no tensor. */
const HARMLESS_BUILDERS =
  /^torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|qtensor|sparse_tensor|sparse_csr_tensor|nested_tensor|meta_tensor_no_storage|device_tensor_from_numpy|device_tensor_from_cpu_tensor|wrapper_subclass)$/;

/** Classes of tensors, which old files name. */
const TENSOR_CLASS = /^torch\.(cuda\.)?(sparse\.)?(BFloat16|Bool|Byte|Char|Double|Float|Half|Int|Long|Short)Tensor$/;

/** Modules that reach out of the interpreter, or run code; with everything below them. */
const DANGEROUS_MODULES = new Set(
  (
    'os posix nt subprocess sys shutil socket ssl ctypes _ctypes cffi runpy importlib imp pkgutil zipimport pty commands ' +
    'popen2 platform code codeop pdb bdb trace profile cProfile timeit doctest unittest pickle _pickle cPickle dill ' +
    'cloudpickle joblib jsonpickle shelve marshal types inspect gc signal atexit threading _thread multiprocessing ' +
    'concurrent asyncio webbrowser http httplib urllib urllib2 urllib3 requests aiohttp httpx ftplib smtplib telnetlib ' +
    'xmlrpc paramiko tempfile glob pathlib io _io zipfile tarfile sqlite3 pip setuptools distutils ensurepip venv site ' +
    'sitecustomize antigravity idlelib lib2to3 operator _operator functools _functools numpy.f2py numpy.testing ' +
    'numpy.distutils torch.hub torch.jit torch.package torch.distributed torch.multiprocessing torch.utils.cpp_extension ' +
    'torch.utils._config_module torch._dynamo torch._inductor torch.fx torch.onnx torch.ops torch.library'
  ).split(' '),
);
const DANGEROUS_BUILTINS = new Set(
  (
    'eval exec execfile compile open file input raw_input apply getattr setattr delattr globals locals vars dir __import__ ' +
    'breakpoint exit quit help memoryview type super classmethod staticmethod map filter reduce'
  ).split(' '),
);
const DANGEROUS_NAMES = new Set([
  COMPUTED_NAME,
  'torch.load',
  'torch.save',
  'torch.serialization.load',
  'torch.storage._load_from_bytes',
  'torch._utils._import_dotted_name',
  'numpy.load',
  'pandas.read_pickle',
  'copyreg._reconstructor',
]);

export function judgeImport(name: string): PickleImport {
  return { name, verdict: verdictOf(modernName(name)) };
}

/** Python 2 spelt some modules differently, and Python 3 still maps them. */
function modernName(name: string): string {
  return name.replace(/^__builtin__\./, 'builtins.').replace(/^copy_reg\./, 'copyreg.');
}

function verdictOf(name: string): ImportVerdict {
  if (HARMLESS.has(name) || HARMLESS_BUILDERS.test(name) || TENSOR_CLASS.test(name)) return 'harmless';
  if (STORAGE_DTYPES.has(storageName(name)) || TORCH_DTYPES.has(name)) return 'harmless';
  if (DANGEROUS_NAMES.has(name)) return 'dangerous';
  const parts = name.split('.');
  if (parts[0] === 'builtins' && DANGEROUS_BUILTINS.has(parts[1] ?? '')) return 'dangerous';
  const isDangerous = parts.some((_part, i) => DANGEROUS_MODULES.has(parts.slice(0, i + 1).join('.')));
  return isDangerous ? 'dangerous' : 'unknown';
}

/** `torch.cuda.HalfStorage` is a `torch.HalfStorage` on another device. */
export function storageName(name: string): string {
  return name.replace(/^torch\.cuda\./, 'torch.');
}
