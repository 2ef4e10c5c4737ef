/** Where we differ from ComfyUI 0.3.64 on purpose. An entry that is not needed fails the replay. */
export interface Difference {
  readonly scenario: string;
  /** `step 3` or `client a` */
  readonly place: string;
  /** As a difference is told: `status`, `body.error`. */
  readonly field: string;
  /** What we give instead; null for nothing. */
  readonly ours: unknown;
  readonly reason: string;
}

export const DIFFERENCES: readonly Difference[] = [];
