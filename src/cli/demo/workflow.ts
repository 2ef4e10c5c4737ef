/** The demo's workflow, in the form that any ComfyUI client submits. */

type Prompt = Record<string, { class_type: string; inputs: Record<string, unknown> }>;

/** A picture of the input folder through a vision encoder, into a file and a preview. */
export function encodeWorkflow(image: string, model: string): Prompt {
  return {
    '1': { class_type: 'LoadImage', inputs: { image } },
    '2': { class_type: 'CLIPVisionLoader', inputs: { clip_name: model } },
    '3': { class_type: 'CLIPVisionEncode', inputs: { clip_vision: ['2', 0], image: ['1', 0], crop: 'center' } },
    '4': { class_type: 'VisionBridgeSaveFeatures', inputs: { features: ['3', 0], filename_prefix: 'features' } },
    '5': { class_type: 'PreviewImage', inputs: { images: ['1', 0] } },
  };
}
