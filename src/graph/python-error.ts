/** An error under the name that clients of ComfyUI match on: `ValueError`, `PIL.UnidentifiedImageError`. */
export class PythonError extends Error {
  readonly pythonType: string;

  constructor(pythonType: string, message: string) {
    super(message);
    this.pythonType = pythonType;
  }
}
