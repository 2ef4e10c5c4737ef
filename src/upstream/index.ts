/** Door of upstream/: the ComfyUI that runs beside us. */
export { askRunningComfyUI, type RunningComfyUI } from './running-comfyui.js';
export { QueueWatch, readNewPrompts } from './history.js';
