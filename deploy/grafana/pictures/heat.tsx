// A heat map of a histogram's buckets. Grafana's own is not in its library, so that these cells are drawn here: with its
// chart, its scales and its colours.
import { getValueFormat, type GrafanaTheme2, type TimeRange } from '@grafana/data';
import type { Panel } from '@grafana/schema';
import { AxisPlacement, ScaleDirection, ScaleOrientation } from '@grafana/schema';
import { UPlotChart, UPlotConfigBuilder, useTheme2 } from '@grafana/ui';
import uPlot from 'uplot';

import type { Series } from './data';

interface Props {
  panel: Panel;
  series: Series[];
  range: TimeRange;
  width: number;
  height: number;
}

interface Cells {
  times: number[];
  bounds: number[];
  counts: number[][];
  most: number;
}

export function Heat({ panel, series, range, width, height }: Props) {
  const theme = useTheme2();
  const cells = cellsOf(series);
  const config = build(panel, cells, range, theme);
  // One series that draws nothing: the chart needs one, the cells are drawn by a hook.
  const data = [cells.times, cells.times.map(() => 0)] as uPlot.AlignedData;
  return <UPlotChart config={config} data={data} width={width} height={height} />;
}

/** Buckets are cumulative: each less the one below it. Empty rows above and below are left out. */
function cellsOf(series: Series[]): Cells {
  const sorted = [...series].sort((a, b) => bound(a) - bound(b));
  const times = [...new Set(sorted.flatMap((s) => s.values.map(([at]) => at * 1000)))].sort((a, b) => a - b);
  const cumulative = sorted.map((s) => {
    const at = new Map(s.values.map(([time, value]) => [time * 1000, Number(value)]));
    return times.map((time) => at.get(time) ?? 0);
  });
  const rows = cumulative.map((row, i) => row.map((n, t) => Math.max(0, n - (i > 0 ? cumulative[i - 1][t] : 0))));
  const used = rows.map((row) => row.some((n) => n > 1e-9));
  const [low, high] = [used.indexOf(true), used.lastIndexOf(true)];
  const counts = rows.slice(low, high + 1);
  return { times, bounds: sorted.map(bound).slice(low, high + 1), counts, most: Math.max(...counts.flat()) };
}

const bound = (series: Series): number => (series.metric.le === '+Inf' ? Infinity : Number(series.metric.le));

function build(panel: Panel, cells: Cells, range: TimeRange, theme: GrafanaTheme2): UPlotConfigBuilder {
  const builder = new UPlotConfigBuilder('browser');
  const format = getValueFormat(panel.fieldConfig?.defaults.unit);
  const rows = cells.bounds.length;
  builder.addScale({
    scaleKey: 'x',
    isTime: true,
    orientation: ScaleOrientation.Horizontal,
    direction: ScaleDirection.Right,
    range: () => [range.from.valueOf(), range.to.valueOf()],
  });
  builder.addScale({
    scaleKey: 'y',
    orientation: ScaleOrientation.Vertical,
    direction: ScaleDirection.Up,
    range: () => [0, rows],
  });
  builder.addAxis({ scaleKey: 'x', isTime: true, placement: AxisPlacement.Bottom, theme, timeZone: 'browser' });
  builder.addAxis({
    scaleKey: 'y',
    placement: AxisPlacement.Left,
    theme,
    grid: { show: false },
    splits: () => cells.bounds.map((_, i) => i + 1),
    values: () =>
      cells.bounds.map((value) => {
        const { text, suffix } = format(value, value < 1 ? undefined : value % 1 ? 1 : 0);
        return value === Infinity ? '+Inf' : `${text}${suffix ?? ''}`;
      }),
  });
  builder.addSeries({ scaleKey: 'y', theme, show: true, lineWidth: 0, pxAlign: false } as never);
  builder.addHook('drawSeries', (chart: uPlot) => paint(chart, cells));
  return builder;
}

function paint(chart: uPlot, { times, counts, most }: Cells): void {
  const { ctx } = chart;
  const wide = times.length > 1 ? Math.abs(chart.valToPos(times[1], 'x', true) - chart.valToPos(times[0], 'x', true)) : 4;
  counts.forEach((row, i) => {
    const top = chart.valToPos(i + 1, 'y', true);
    const tall = chart.valToPos(i, 'y', true) - top;
    row.forEach((count, t) => {
      if (count > 1e-9) {
        ctx.fillStyle = oranges(Math.sqrt(count / most));
        ctx.fillRect(chart.valToPos(times[t], 'x', true) - wide, top + 1, Math.ceil(wide), tall - 1);
      }
    });
  });
}

/** The scheme "Oranges" on a dark ground: from faint to bright. */
function oranges(share: number): string {
  const [from, to] = [
    [70, 32, 10],
    [255, 214, 160],
  ];
  const mid = [241, 105, 19];
  const [a, b, x] = share < 0.5 ? [from, mid, share * 2] : [mid, to, share * 2 - 1];
  return `rgb(${a.map((n, i) => Math.round(n + (b[i] - n) * x)).join()})`;
}

