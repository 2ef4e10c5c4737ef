/**
 * The first tab that PyYAML refuses.
 *
 * PyYAML knows blanks only between tokens: a tab is refused everywhere but inside quotations, comments and block
 * scalars. Other readers accept it in most places, so it has to be looked for.
 */

type Context = 'token' | 'plain';

/** Offset of the tab, or undefined where every tab is allowed. */
export function findRefusedTab(text: string): number | undefined {
  if (!text.includes('\t')) return undefined;
  let context: Context = 'token';
  let flowDepth = 0;
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at] ?? '';
    const isAfterBlank = at === 0 || /[\s]/.test(text[at - 1] ?? '');
    if (character === '\t') return at;
    if (character === '\n') {
      if (flowDepth === 0) context = 'token';
    } else if (character === '#' && isAfterBlank) {
      at = endOfLine(text, at) - 1;
    } else if (context === 'plain') {
      const isColon = character === ':' && /^(\s|$)/.test(text.slice(at + 1, at + 2));
      if (isColon || (flowDepth > 0 && /[,[\]{}]/.test(character))) context = 'token';
      if (flowDepth > 0 && /[\]}]/.test(character)) flowDepth -= 1;
    } else if (character === '"' || character === "'") {
      at = endOfQuotation(text, at);
      if (at === -1) return undefined; // not closed: that is the error
    } else if ((character === '|' || character === '>') && flowDepth === 0) {
      const tab = tabInBlockHeader(text, at);
      if (tab !== undefined) return tab;
      at = endOfBlockScalar(text, at) - 1;
      context = 'token';
    } else if (/[[{]/.test(character)) {
      flowDepth += 1;
    } else if (/[\]}]/.test(character)) {
      flowDepth = Math.max(0, flowDepth - 1);
    } else if (!/[\s,]/.test(character) && !isIndicator(text, at)) {
      context = 'plain';
    }
  }
  return undefined;
}

/** `-`, `?` and `:` stand alone before a blank. */
function isIndicator(text: string, at: number): boolean {
  return /[-?:]/.test(text[at] ?? '') && /^(\s|$)/.test(text.slice(at + 1, at + 2));
}

function endOfLine(text: string, at: number): number {
  const end = text.indexOf('\n', at);
  return end === -1 ? text.length : end;
}

/** Offset of the closing mark; -1 without one. */
function endOfQuotation(text: string, at: number): number {
  const mark = text[at];
  for (let end = at + 1; end < text.length; end += 1) {
    if (text[end] === '\\' && mark === '"') end += 1;
    else if (text[end] === mark) {
      if (mark === '"' || text[end + 1] !== "'") return end;
      end += 1;
    }
  }
  return -1;
}

function tabInBlockHeader(text: string, at: number): number | undefined {
  const header = text.slice(at, endOfLine(text, at));
  const tab = (header.split(' #')[0] ?? '').indexOf('\t');
  return tab === -1 ? undefined : at + tab;
}

/** The end of the last line that is deeper than the line of the header, or blank. */
function endOfBlockScalar(text: string, at: number): number {
  const lineStart = text.lastIndexOf('\n', at) + 1;
  const indent = /^ */.exec(text.slice(lineStart))?.[0].length ?? 0;
  let end = endOfLine(text, at);
  while (end < text.length) {
    const next = endOfLine(text, end + 1);
    const line = text.slice(end + 1, next);
    const depth = /^ */.exec(line)?.[0].length ?? 0;
    if (depth <= indent && depth < line.length) break;
    end = next;
  }
  return end;
}
