// What is measured inside the page. Each function is sent to the browser as it stands, so it uses nothing around it.

/** What reaches beyond the width of the window, or is cut off there. */
export function sideways() {
  const width = document.documentElement.clientWidth;
  const found = [];
  if (document.documentElement.scrollWidth > width) found.push(`the page is ${document.documentElement.scrollWidth} wide, the window ${width}`);
  for (const it of document.querySelectorAll('body *')) {
    const box = it.getBoundingClientRect();
    if (box.width === 0 || box.height <= 1 || it.closest('.visually-hidden, dialog:not([open]), datalist')) continue;
    if (box.right > width + 1 || box.left < -1) found.push(`${it.outerHTML.slice(0, 100)} from ${box.left} to ${box.right}`);
  }
  return found;
}

/** Texts whose contrast is below what WCAG 2 asks for at level AA: 4.5, for large ones 3. */
export function contrasts() {
  const context = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d', { willReadFrequently: true });
  /** Any colour of CSS as red, green, blue, and alpha from 0 to 1. */
  const parse = (color) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], ground) => [r, g, b].map((it, i) => it * a + ground[i] * (1 - a));
  const luminance = (color) => {
    const [r, g, b] = color.map((it) => (it / 255 <= 0.04045 ? it / 255 / 12.92 : ((it / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (it) => {
    const below = it.parentElement ? ground(it.parentElement) : [255, 255, 255];
    return over(parse(getComputedStyle(it).backgroundColor), below);
  };
  const found = [];
  for (const it of document.querySelectorAll('body *')) {
    const says = [...it.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!says || !it.checkVisibility({ visibilityProperty: true, opacityProperty: true }) || it.closest('.visually-hidden, :disabled')) continue;
    const style = getComputedStyle(it);
    const behind = ground(it);
    const [bright, dark] = [luminance(over(parse(style.color), behind)), luminance(behind)].sort((a, b) => b - a);
    const ratio = (bright + 0.05) / (dark + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${style.color} ${it.outerHTML.slice(0, 90)}`);
  }
  return found;
}
