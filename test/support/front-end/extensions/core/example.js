/** Extensions of a front end are scripts that it loads by the paths that /extensions names. */
globalThis.frontEnd.loaded.push(new URL(import.meta.url).pathname);
