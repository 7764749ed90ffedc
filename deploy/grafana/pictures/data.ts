// What Prometheus answered, as the frames that Grafana's data source would make of it: named by the legend, coloured and
// formatted by the panel's field configuration.
import {
  createDataFrame,
  dateTime,
  FieldType,
  getDisplayProcessor,
  getFieldDisplayName,
  reduceField,
  type DataFrame,
  type Field,
  type FieldConfig,
  type GrafanaTheme2,
  type TimeRange,
} from '@grafana/data';
import type { Dashboard, Panel } from '@grafana/schema';

export interface Series {
  metric: Record<string, string>;
  values: Array<[number, string]>;
}
export interface Given {
  board: Dashboard;
  answers: Record<string, Series[]>;
  end: number;
  seconds: number;
}
export interface Target {
  refId: string;
  legendFormat?: string;
}

export const targetsOf = (panel: Panel): Target[] => (panel.targets ?? []) as unknown as Target[];

export function timeRange({ end, seconds }: Given): TimeRange {
  const [from, to] = [dateTime((end - seconds) * 1000), dateTime(end * 1000)];
  return { from, to, raw: { from, to } };
}

/** A frame for each series; where a step has no value there is a gap, as Grafana makes it. */
export function frames(panel: Panel, given: Given, theme: GrafanaTheme2): DataFrame[] {
  const found: DataFrame[] = [];
  for (const target of targetsOf(panel)) {
    for (const { metric, values } of given.answers[`${panel.id}${target.refId}`]) {
      found.push(
        createDataFrame({
          refId: target.refId,
          fields: [
            { name: 'Time', type: FieldType.time, values: values.map(([at]) => at * 1000), config: {} },
            {
              name: 'Value',
              type: FieldType.number,
              values: values.map(([, value]) => number(value)),
              labels: metric,
              config: configOf(panel, named(target, metric)),
            },
          ],
        })
      );
    }
  }
  found.forEach((frame, index) => display(frame, index, theme));
  return found;
}

export const number = (text: string): number | null => (text === 'NaN' ? null : Number(text));

function named(target: Target, labels: Record<string, string>): string {
  return (target.legendFormat ?? '').replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? '');
}

/** The panel's defaults, and what its overrides say of a series with this name. */
export function configOf(panel: Panel, name: string): FieldConfig {
  const { defaults, overrides } = panel.fieldConfig!;
  const config = { ...defaults, custom: { ...defaults.custom }, displayName: name } as unknown as FieldConfig;
  for (const { matcher, properties } of overrides) {
    if (matcher.id === 'byName' && matcher.options === name) {
      for (const { id, value } of properties) {
        put(config as Record<string, unknown>, id.split('.'), value);
      }
    }
  }
  return config;
}

function put(into: Record<string, unknown>, [first, ...rest]: string[], value: unknown): void {
  if (rest.length > 0) {
    put((into[first] ??= {}) as Record<string, unknown>, rest, value);
  } else {
    into[first] = value;
  }
}

export function display(frame: DataFrame, index: number, theme: GrafanaTheme2): void {
  for (const field of frame.fields) {
    first(field);
    const displayName = field.config.displayName ?? getFieldDisplayName(field, frame);
    field.state = { seriesIndex: index, displayName, range: rangeOf(field) };
    field.display = getDisplayProcessor({ field, theme });
  }
}

/** What a spark line's scale is made from. */
function rangeOf(field: Field) {
  if (field.type !== FieldType.number) {
    return undefined;
  }
  const { min, max } = reduceField({ field, reducers: ['min', 'max'] });
  return { min, max, delta: max - min };
}

/** Thresholds begin at minus infinity, which JSON writes as null. */
function first(field: Field): void {
  const thresholds = field.config.thresholds;
  if (thresholds) {
    const steps = thresholds.steps.map((step) => ({ ...step, value: step.value ?? -Infinity }));
    field.config.thresholds = { ...thresholds, steps };
  }
}
