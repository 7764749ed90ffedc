// One panel, drawn by the widget of Grafana's library that its type names.
import {
  createDataFrame,
  EventBusSrv,
  FieldType,
  getDisplayProcessor,
  reduceField,
  VizOrientation,
  type DataFrame,
  type DisplayValue,
  type Field,
} from '@grafana/data';
import type { Panel } from '@grafana/schema';
import {
  BarGauge,
  BigValue,
  PanelContextProvider,
  TimeSeries,
  useTheme2,
  VizRepeater,
  type PanelContext,
} from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';

import { configOf, display, frames, number, targetsOf, timeRange, type Given, type Series } from './data';
import { Heat } from './heat';

interface Props {
  panel: Panel;
  given: Given;
  width: number;
  height: number;
}

export function Drawn(props: Props) {
  switch (props.panel.type) {
    case 'timeseries':
      return <Lines {...props} />;
    case 'stat':
    case 'bargauge':
      return <Numbers {...props} />;
    case 'table':
      return <Rows {...props} />;
    case 'heatmap': {
      const series = props.given.answers[`${props.panel.id}A`];
      return <Heat {...props} series={series} range={timeRange(props.given)} />;
    }
    default:
      throw new Error(`no widget for ${props.panel.type}`);
  }
}

const CONTEXT: PanelContext = { eventsScope: 'picture', eventBus: new EventBusSrv() };

function Lines({ panel, given, width, height }: Props) {
  const theme = useTheme2();
  const options = panel.options as { legend: never };
  return (
    <PanelContextProvider value={CONTEXT}>
      <TimeSeries
        frames={frames(panel, given, theme)}
        timeRange={timeRange(given)}
        timeZone="browser"
        width={width}
        height={height}
        legend={options.legend}
        options={options}
      />
    </PanelContextProvider>
  );
}

function Numbers({ panel, given, width, height }: Props) {
  const theme = useTheme2();
  const found = frames(panel, given, theme);
  const options = panel.options as Record<string, never>;
  const draw = panel.type === 'stat' ? stat : bar;
  return (
    <VizRepeater
      source={found}
      getValues={() => found}
      renderCounter={0}
      width={width}
      height={height}
      autoGrid={panel.type === 'stat'}
      minVizHeight={panel.type === 'stat' ? undefined : 16}
      orientation={panel.type === 'stat' ? VizOrientation.Auto : VizOrientation.Horizontal}
      renderValue={({ value, width, height, count }) => draw(value, options, { width, height, count, theme })}
    />
  );
}

type Place = { width: number; height: number; count: number; theme: ReturnType<typeof useTheme2> };

function last(frame: DataFrame): { field: Field; value: DisplayValue } {
  const field = frame.fields[1];
  const { lastNotNull } = reduceField({ field, reducers: ['lastNotNull'] });
  return { field, value: { ...field.display!(lastNotNull), title: field.config.displayName } };
}

function stat(frame: DataFrame, options: Record<string, never>, { count, ...place }: Place) {
  const { field, value } = last(frame);
  const sparkline = options.graphMode === 'area' ? { y: field, x: frame.fields[0] } : undefined;
  return (
    <BigValue
      {...place}
      value={value}
      count={count}
      sparkline={sparkline}
      colorMode={options.colorMode}
      graphMode={options.graphMode}
      justifyMode={options.justifyMode}
      textMode={options.textMode}
    />
  );
}

function bar(frame: DataFrame, options: Record<string, never>, place: Place) {
  const { field, value } = last(frame);
  return (
    <BarGauge
      {...place}
      value={value}
      field={field.config}
      display={field.display}
      orientation={VizOrientation.Horizontal}
      displayMode={options.displayMode}
      valueDisplayMode={options.valueMode}
      text={options.text}
      isOverflow={false}
      itemSpacing={8}
    />
  );
}

/** The queries' answers joined by their one label, as the panel's transformations do it. */
function Rows({ panel, given, width, height }: Props) {
  const theme = useTheme2();
  const options = panel.options as { sortBy: never; cellHeight: never };
  const organize = panel.transformations!.find(({ id }) => id === 'organize')!.options as {
    renameByName: Record<string, string>;
  };
  const label = Object.keys(organize.renameByName)[0];
  const answers = targetsOf(panel).map(({ refId }) => given.answers[`${panel.id}${refId}`]);
  const names = [...new Set(answers.flatMap((series) => series.map(({ metric }) => metric[label])))];
  const frame = createDataFrame({
    fields: [
      { name: organize.renameByName[label], type: FieldType.string, values: names, config: {} },
      ...targetsOf(panel).map(({ refId }, i) => {
        const name = organize.renameByName[`Value #${refId}`];
        const values = names.map((wanted) => valueOf(answers[i], label, wanted));
        return { name, type: FieldType.number, values, config: configOf(panel, name) };
      }),
    ],
  });
  display(frame, 0, theme);
  frame.fields[0].display = getDisplayProcessor({ field: frame.fields[0], theme });
  return (
    <TableNG
      data={frame}
      width={width}
      height={height}
      initialSortBy={options.sortBy}
      cellHeight={options.cellHeight}
      enableVirtualization={false}
    />
  );
}

function valueOf(series: Series[], label: string, wanted: string): number | null {
  const found = series.find(({ metric }) => metric[label] === wanted);
  return found ? number(found.values[0][1]) : null;
}
