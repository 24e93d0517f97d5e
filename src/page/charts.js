// The charts: uPlot, with legends that show the newest values (or those under the pointer) and hide a line when pressed.

import { attribute, h, svg, text } from './dom.js';
import { clock, count, latency, rate } from './format.js';
import { recall, remember, t } from './i18n.js';
import { live } from './live.js';

const HEIGHT = 190;
/** Points further apart are not joined. There is one each ten seconds at least, while the server runs. */
const GAP = 25_000;

/** How far back the charts can reach, and the least that the time axis shows then. */
const SPANS = {
  minutes: { span: 300_000, least: 60_000, points: () => live.points },
  hour: { span: 3_600_000, least: 600_000, points: () => live.hour },
};
let chosen = recall('contact-span') === 'hour' ? 'hour' : 'minutes';

/** The choice between them, which is remembered. */
export function spanChoice(changed) {
  const choice = (name) => {
    const input = h('input', { type: 'radio', name: 'span', value: name, checked: name === chosen, onchange: () => {
      chosen = name;
      remember('contact-span', name);
      changed();
    } });
    return h('label', {}, input, h('span', {}, t(`chart.span.${name}`)));
  };
  return h('div', { class: 'segments', role: 'radiogroup', 'aria-label': t('chart.span') }, Object.keys(SPANS).map(choice));
}

/** Lines differ in their dashes too, for those who do not see the colours apart. */
const CHARTS = {
  throughput: {
    format: rate,
    lines: [
      { key: 'accepted', label: 'chart.accepted', color: 1, dash: [6, 3] },
      { key: 'delivered', label: 'chart.delivered', color: 2, dash: [2, 3] },
      { key: 'settled', label: 'chart.settled', color: 3 },
      { key: 'failed', label: 'chart.failed', title: 'chart.failed.title', color: 4, width: 2 },
    ],
  },
  latency: {
    format: latency,
    log: true,
    lines: [
      { key: 'wait_p50_ms', label: 'chart.wait50', title: 'chart.wait.title', color: 1 },
      { key: 'wait_p99_ms', label: 'chart.wait99', title: 'chart.wait.title', color: 1, dash: [3, 3] },
      { key: 'work_p50_ms', label: 'chart.work50', title: 'chart.work.title', color: 5 },
      { key: 'work_p99_ms', label: 'chart.work99', title: 'chart.work.title', color: 5, dash: [3, 3] },
    ],
  },
  backlog: {
    format: count,
    lines: [
      { key: 'lag', label: 'chart.lag', color: 2, fill: true },
      { key: 'in_flight', label: 'chart.in_flight', color: 3, dash: [6, 3] },
    ],
  },
};

/** A chart by its name. The library is loaded with the first one, so that the words above need not wait for it. */
export function chart(name) {
  const { lines, format, log } = CHARTS[name];
  const title = t(`chart.${name}`);
  const plotAt = h('div', { class: 'plot', role: 'img' });
  const shown = lines.map(() => true);
  const entries = lines.map((line, i) => legendEntry(line, () => toggle(i)));
  const at = h('span', { class: 'chart-at' });
  const node = h('figure', { class: 'chart' },
    h('figcaption', {}, h('h2', {}, title), h('span', { class: 'unit' }, t(`chart.${name}.unit`)), at),
    plotAt,
    h('div', { class: 'legend' }, entries.map((it) => it.node)));
  let plot = null;
  let gone = false;
  let data = [];

  function toggle(i) {
    shown[i] = !shown[i];
    attribute(entries[i].button, 'aria-pressed', String(shown[i]));
    plot?.setSeries(i + 1, { show: shown[i] });
  }

  function legend(index) {
    const hovered = index !== null && index !== undefined && data[0][index] !== undefined;
    const i = hovered ? index : data[0].length - 1;
    text(at, hovered ? clock(data[0][i] * 1000) : '');
    lines.forEach((line, k) => text(entries[k].value, format(data[k + 1][i] ?? null)));
    if (!hovered) {
      attribute(plotAt, 'aria-label', `${title}: ${lines.map((line, k) => `${t(line.label)} ${format(data[k + 1][i] ?? null)}`).join(', ')}`);
    }
  }

  function draw() {
    if (gone || !node.isConnected) return;
    data = table(SPANS[chosen].points(), lines);
    const empty = data[0].length === 0;
    plotAt.classList.toggle('empty', empty);
    attribute(plotAt, 'data-empty', empty ? t('chart.empty') : null);
    if (!plot) return;
    plot.setData(data);
    legend(plot.cursor.idx);
  }

  const observer = new ResizeObserver(() => {
    const width = Math.floor(plotAt.clientWidth);
    if (plot && width > 0) plot.setSize({ width, height: HEIGHT });
  });

  function build(uPlot) {
    if (gone) return;
    plot?.destroy();
    data = table(SPANS[chosen].points(), lines);
    plot = new uPlot(options(uPlot, plotAt, lines, entries, { format, log, shown, legend }), data, plotAt);
    draw();
  }

  let library = null;
  import('./uplot/uPlot.esm.js').then(
    (module) => {
      library = module.default;
      build(library);
      observer.observe(plotAt);
    },
    () => text(plotAt, t('chart.failed.load')),
  );

  return {
    node,
    update: draw,
    /** Colours are read when a chart is built. */
    recolour: () => library && build(library),
    destroy() {
      gone = true;
      observer.disconnect();
      plot?.destroy();
    },
  };
}

function legendEntry(line, toggle) {
  const label = t(line.label);
  const value = h('span', { class: 'legend-value' });
  const sample = svg('svg', { viewBox: '0 0 22 8', class: `sample c${line.color}`, 'aria-hidden': 'true' },
    svg('line', { x1: 1, y1: 4, x2: 21, y2: 4, 'stroke-dasharray': line.dash?.join(' ') }));
  const button = h('button', {
    type: 'button', class: 'legend-entry', 'aria-pressed': 'true', title: line.title ? t(line.title) : t('chart.show', label), onclick: toggle,
  }, sample, h('span', {}, label), value);
  return { node: button, button, value, sample };
}

/** Columns as uPlot wants them: the times in seconds, then a column for each line. */
function table(points, lines) {
  const columns = [[], ...lines.map(() => [])];
  let last = null;
  for (const point of points) {
    if (last !== null && point.at - last > GAP) {
      columns[0].push((last + 1000) / 1000);
      for (const column of columns.slice(1)) column.push(null);
    }
    columns[0].push(point.at / 1000);
    lines.forEach((line, i) => columns[i + 1].push(point[line.key] ?? null));
    last = point.at;
  }
  return columns;
}

function options(uPlot, place, lines, entries, { format, log, shown, legend }) {
  // Resolved colours: a canvas does not know the variables of the style sheet.
  const style = getComputedStyle(place);
  const muted = style.color;
  const grid = style.borderTopColor;
  const font = `11px ${style.fontFamily}`;
  const axis = { stroke: muted, font, ticks: { show: false }, grid: { stroke: grid, width: 1 } };
  return {
    width: Math.max(200, Math.floor(place.clientWidth)),
    height: HEIGHT,
    padding: [8, 4, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: 'contact' }, points: { size: 6 } },
    scales: {
      x: { time: true, range },
      y: log ? { distr: 3, range: (_, low, high) => decades(low, high) } : { range: (_, low, high) => [0, ceiling(high)] },
    },
    axes: [
      { ...axis, size: 26, space: 70, grid: { show: false }, values: (_, times, __, ___, step) => times.map((at) => clock(at * 1000).slice(0, step < 60 ? 8 : 5)), incrs: [30, 60, 120, 300, 600, 900] },
      {
        ...axis,
        size: (self, values) => Math.max(36, 14 + 6.2 * Math.max(0, ...(values ?? []).map((it) => it?.length ?? 0))),
        space: 34,
        values: (_, ticks) => ticks.map((it) => (it === null ? '' : format(it))),
        ...(log ? { filter: powers, grid: { ...axis.grid, filter: powers } } : {}),
      },
    ],
    series: [
      {},
      ...lines.map((line, i) => {
        const stroke = getComputedStyle(entries[i].sample).color;
        return {
          show: shown[i],
          stroke,
          width: line.width ?? 1.5,
          dash: line.dash,
          fill: line.fill ? stroke.replace(/^rgb\((.*)\)$/, 'rgba($1, 0.12)') : undefined,
          points: { show: true, size: 4, stroke, fill: stroke, filter: (self, k) => alone(self.data[k]) },
        };
      }),
    ],
    hooks: { setCursor: [(self) => legend(self.cursor.idx)] },
  };
}

/** As far back as was chosen; less, while there is less to show. */
function range() {
  const { span, least, points } = SPANS[chosen];
  const until = live.state?.at ?? Date.now();
  const begin = Math.min(points()[0]?.at ?? until, until - least);
  return [Math.max(begin, until - span) / 1000, until / 1000];
}

/** A value between two seconds without any is no line: it is drawn as a point. */
function alone(column) {
  const there = (i) => column[i] !== null && column[i] !== undefined;
  return column.flatMap((_, i) => (there(i) && !there(i - 1) && !there(i + 1) ? [i] : []));
}

/** Of the ticks of a logarithmic axis, the powers of ten. */
function powers(_, ticks) {
  return ticks.map((it) => (Math.abs(Math.log10(it) - Math.round(Math.log10(it))) < 1e-9 ? it : null));
}

/** The next 1, 2 or 5 with noughts, with a little room. */
function ceiling(high) {
  const wanted = Math.max(5, (high ?? 0) * 1.08);
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 3, 5, 10].map((it) => it * power).find((it) => it >= wanted);
}

function decades(low, high) {
  if (!(low > 0) || !(high > 0)) return [0.1, 100];
  const from = 10 ** Math.floor(Math.log10(low));
  return [from, Math.max(10 ** Math.ceil(Math.log10(high)), from * 100)];
}
