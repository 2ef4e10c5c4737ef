/** What people call the encoders that the registry tells apart, and under which names they are published. */

const LABELS: Readonly<Record<string, string>> = {
  'clip-vit-h-14': 'CLIP-H',
  'clip-vit-bigg-14': 'CLIP-bigG',
  'clip-vit-l-14': 'CLIP-L',
  'clip-vit-l-14-336': 'CLIP-L-336',
  'siglip-so400m-384': 'SigLIP-384',
  'siglip-so400m-512': 'SigLIP-512',
  'dinov2-large': 'DINOv2 large',
  'dinov2-giant': 'DINOv2 giant',
};

export const ENCODER_FILES: Readonly<Record<string, string>> = {
  'clip-vit-h-14': 'CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors or clip_vision_h.safetensors',
  'clip-vit-bigg-14': 'CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors or clip_vision_g.safetensors',
  'clip-vit-l-14': 'clip-vit-large-patch14.safetensors or clip_vision_l.safetensors',
  'clip-vit-l-14-336': 'clip-vit-large-patch14-336.safetensors',
  'siglip-so400m-384': 'sigclip_vision_patch14_384.safetensors',
};

export function encoderLabel(encoder: string): string {
  return LABELS[encoder] ?? encoder;
}

export function formatWidth(input: 'embeds' | 'hidden' | 'face', width: number): string {
  return input === 'hidden' ? `hidden states of ${width}` : String(width);
}
