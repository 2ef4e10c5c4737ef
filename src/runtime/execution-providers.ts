/**
 * Devices that encoders can run on, and onnxruntime's execution provider for each.
 *
 * A new provider is an entry in the table. What this build of onnxruntime-node carries is asked, never assumed; whether a
 * provider works on this machine shows when the first session is made.
 */
import { BridgeError } from '../common/errors.js';

export const DEVICES = ['auto', 'cpu', 'cuda', 'dml', 'coreml', 'webgpu'] as const;
/** `auto` takes the first device of the table that works here. */
export type Device = (typeof DEVICES)[number];
export type DeviceName = Exclude<Device, 'auto'>;

interface ExecutionProvider {
  readonly device: DeviceName;
  /** 8-bit matrix products run on it. */
  readonly hasInt8: boolean;
  /**
   * onnxruntime's fused attention is right on it. On WebGPU it is so on some graphics processors only: with subgroups of 4
   * (SwiftShader, onnxruntime 1.30.0) results of more than 32 tokens are off by some hundredths. Plain attention is as fast.
   */
  readonly fusesAttention: boolean;
  /** What to do where this build or machine lacks it. */
  readonly advice: string;
}

/** Best first. The CPU is always there. */
const EXECUTION_PROVIDERS: readonly ExecutionProvider[] = [
  {
    device: 'cuda',
    hasInt8: false,
    fusesAttention: true,
    advice:
      'It needs Linux x64, an NVIDIA driver, CUDA 12 or newer with cuDNN 9, and onnxruntime-node installed with its CUDA libraries (npm install onnxruntime-node --onnxruntime-node-install=cuda12).',
  },
  { device: 'dml', hasInt8: false, fusesAttention: true, advice: 'DirectML is part of the Windows build.' },
  { device: 'coreml', hasInt8: false, fusesAttention: true, advice: 'CoreML is part of the macOS build.' },
  {
    device: 'webgpu',
    hasInt8: false,
    fusesAttention: false,
    advice: 'WebGPU needs a graphics driver with Vulkan, Direct3D 12 or Metal.',
  },
  { device: 'cpu', hasInt8: true, fusesAttention: true, advice: '' },
];

/** Devices to try, in order. `int8` runs on those that have it. */
export function candidateDevices(device: Device, { needsInt8 }: { needsInt8: boolean }): readonly DeviceName[] {
  if (device !== 'auto') {
    const provider = EXECUTION_PROVIDERS.find((candidate) => candidate.device === device);
    if (needsInt8 && provider?.hasInt8 !== true) {
      throw new BridgeError(
        'DEVICE_UNAVAILABLE',
        `int8 runs on the CPU, not on ${device}: leave the device at cpu, or ask for comfy or fp32.`,
      );
    }
    return [device];
  }
  return EXECUTION_PROVIDERS.filter(({ hasInt8 }) => hasInt8 || !needsInt8).map((provider) => provider.device);
}

/** What a graph for this device may use. */
export function graphOptions(device: DeviceName): { readonly fusesAttention: boolean } {
  return {
    fusesAttention: EXECUTION_PROVIDERS.find((candidate) => candidate.device === device)?.fusesAttention === true,
  };
}

/** onnxruntime says what went wrong in the errors that it throws; its own lines in the terminal would say it twice. */
export async function loadOnnxruntime(): Promise<typeof import('onnxruntime-node')> {
  const onnxruntime = await import('onnxruntime-node');
  onnxruntime.env.logLevel = 'fatal';
  return onnxruntime;
}

/** Whether this build of onnxruntime-node has the provider. */
export async function isInThisBuild(device: DeviceName): Promise<boolean> {
  if (device === 'cpu') return true;
  const { listSupportedBackends } = await loadOnnxruntime();
  return listSupportedBackends().some(({ name }) => name === device);
}

export function deviceUnavailable(device: DeviceName, reason: string, cause?: unknown): BridgeError {
  const advice = EXECUTION_PROVIDERS.find((candidate) => candidate.device === device)?.advice ?? '';
  return new BridgeError('DEVICE_UNAVAILABLE', `The device ${device} cannot be used: ${reason} ${advice}`.trim(), {
    cause,
    details: { device },
  });
}
