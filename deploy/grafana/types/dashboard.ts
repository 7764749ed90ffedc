// What one of our dashboards may say: Grafana's own schema, narrowed to the panels that we use, so that their options are
// looked at too. The schema has no types for Prometheus: a query, and what its annotations say, are written down here.
import type * as schema from '@grafana/schema';
import type * as BarGauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as Heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as Stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as Table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as TimeSeries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// JSON has texts where TypeScript has members of an enum: "list" for LegendDisplayMode.List.
type Json<T> = T extends string
  ? `${T}`
  : T extends number | boolean | null | undefined
    ? T
    : T extends Array<infer Item>
      ? Array<Json<Item>>
      : T extends object
        ? { [Key in keyof T]: Json<T[Key]> }
        : T;

interface Source {
  type: 'prometheus';
  uid: '${datasource}';
}
interface Query {
  expr: string;
  refId: string;
  instant: boolean;
  range: boolean;
  editorMode: 'code' | 'builder';
  format?: 'time_series' | 'table' | 'heatmap';
  legendFormat?: string;
  datasource: Source;
}
interface Annotation extends Omit<schema.AnnotationQuery, 'target'> {
  expr: string;
  step: string;
  titleFormat: string;
  textFormat: string;
  tagKeys: string;
}
type Kind<Type, Options, Custom> = Omit<schema.Panel, 'type' | 'options' | 'fieldConfig' | 'targets' | 'datasource'> & {
  type: Type;
  title: string;
  description: string;
  datasource: Source;
  targets: Query[];
  options: Options;
  fieldConfig: {
    defaults: Omit<schema.FieldConfig, 'custom' | 'unit'> & { unit: string; custom?: Custom };
    overrides: schema.FieldConfigSource['overrides'];
  };
};
type Panel =
  | Kind<'timeseries', TimeSeries.Options, TimeSeries.FieldConfig>
  | Kind<'stat', Partial<Stat.Options>, never>
  | Kind<'bargauge', Partial<BarGauge.Options>, never>
  | Kind<'heatmap', Partial<Heatmap.Options>, Partial<Heatmap.FieldConfig>>
  | Kind<'table', Partial<Table.Options>, Partial<Table.FieldConfig>>
  | (Omit<schema.RowPanel, 'panels'> & { panels: never[] });

export type Dashboard = Json<
  Omit<schema.Dashboard, 'panels' | 'annotations'> & { panels: Panel[]; annotations: { list: Annotation[] } }
>;
