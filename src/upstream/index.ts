/** Door of upstream/: the ComfyUI that runs beside us. */
export { askRunningComfyUI, type RunningComfyUI } from './running-comfyui.js';
export { QueueWatch, readNewPrompts, type RanPrompt } from './history.js';
