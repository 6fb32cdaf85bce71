const byId = (id) => document.getElementById(id);
const make = (tag, text, className) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
};
const picture = (source, alt) => {
  const image = make("img");
  image.src = "data:image/webp;base64," + source;
  image.alt = alt;
  image.loading = "lazy";
  return image;
};
const percent = (share) => (100 * share).toFixed(1) + " %";
