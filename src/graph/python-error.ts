/** An error under the name that clients of ComfyUI match on: `ValueError`, `PIL.UnidentifiedImageError`. */
export class PythonError extends Error {
  readonly pythonType: string;

  constructor(pythonType: string, message: string) {
    super(message);
    this.pythonType = pythonType;
  }
}

/** The name under which clients know an error of a node: its Python name where it has one. */
export function pythonTypeOf(error: unknown): string {
  if (error instanceof Error && 'pythonType' in error && typeof error.pythonType === 'string') return error.pythonType;
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') return error.code;
  return error instanceof Error ? error.name : 'Exception';
}
