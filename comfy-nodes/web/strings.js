/** Texts of the panel, from the pack's locales, which ComfyUI serves for all packs together. */

const FALLBACK = 'en';

/**
 * @param {(path: string) => Promise<Response>} fetchApi
 * @param {() => string | undefined} locale
 * @returns {Promise<(key: string, values?: Record<string, unknown>) => string>} a text by its key, `{name}` filled in
 */
export async function loadStrings(fetchApi, locale) {
  let all = {};
  try {
    const response = await fetchApi('/i18n');
    if (response.ok) all = await response.json();
  } catch {
    // Without translations the keys are shown: readable English words.
  }
  return (key, values = {}) => {
    const text = all[locale() ?? FALLBACK]?.visionBridge?.[key] ?? all[FALLBACK]?.visionBridge?.[key] ?? key;
    return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
  };
}
