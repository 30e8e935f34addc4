'use strict';

const ESCAPES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };

function escapeHtml(text) {
  return String(text).replace(/[&<>"]/g, (character) => ESCAPES[character]);
}

function renderItem(item) {
  return `<li data-item="${escapeHtml(JSON.stringify(item))}">${escapeHtml(item.name)}: ${item.price}</li>`;
}

function renderPage({ title, token, items }) {
  const list = items.map(renderItem).join('\n');
  return `<!doctype html><title>${escapeHtml(title)}</title><p>${token}</p><ul>${list}</ul>`;
}

module.exports = { escapeHtml, renderItem, renderPage };
