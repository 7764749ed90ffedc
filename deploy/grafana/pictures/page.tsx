// A whole dashboard, its panels where their JSON puts them. Written for a picture: nothing can be clicked.
import { createTheme, ThemeContext } from '@grafana/data';
import type { Panel, RowPanel } from '@grafana/schema';
import { GlobalStyles, Icon, PanelChrome } from '@grafana/ui';
import { createRoot } from 'react-dom/client';
import 'uplot/dist/uPlot.min.css';

import type { Given } from './data';
import { Drawn } from './panel';

declare global {
  interface Window {
    given: Given;
  }
}

const [CELL, GAP, HEAD] = [30, 8, 64];
const theme = createTheme({ colors: { mode: 'dark' } });
const given = window.given;

function placed({ gridPos }: Panel | RowPanel) {
  const column = (window.innerWidth - GAP) / 24;
  const { x, y, w, h } = gridPos!;
  return {
    left: GAP + x * column,
    top: HEAD + y * (CELL + GAP),
    width: w * column - GAP,
    height: h * (CELL + GAP) - GAP,
  };
}

function Page() {
  const { title, panels, templating } = given.board;
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <header style={{ display: 'flex', alignItems: 'center', gap: 16, height: HEAD, padding: '0 12px' }}>
        <span style={{ fontSize: 20, fontWeight: 500 }}>{title}</span>
        {templating?.list?.map(({ name, label, current }) => (
          <span key={name} style={{ fontSize: 12, color: theme.colors.text.secondary }}>
            {label} <b style={{ color: theme.colors.text.primary }}>{String(current?.text)}</b>
          </span>
        ))}
        <span style={{ marginLeft: 'auto', fontSize: 12, color: theme.colors.text.secondary }}>
          drawn with @grafana/ui from {Math.round(given.seconds / 60)} minutes of a rehearsal; not a screenshot of Grafana
        </span>
      </header>
      {panels?.map((panel) => (
        <Placed key={panel.id} panel={panel} />
      ))}
    </ThemeContext.Provider>
  );
}

function Placed({ panel }: { panel: Panel | RowPanel }) {
  const { left, top, width, height } = placed(panel);
  const place = { position: 'absolute', left, top, width, height } as const;
  if (panel.type === 'row') {
    return (
      <div style={{ ...place, display: 'flex', alignItems: 'center', gap: 6, fontWeight: 500 }}>
        <Icon name="angle-down" /> {panel.title}
      </div>
    );
  }
  return (
    <div style={place}>
      <PanelChrome title={panel.title} width={width} height={height} description={(panel as Panel).description}>
        {(inner, tall) => <Drawn panel={panel as Panel} given={given} width={inner} height={tall} />}
      </PanelChrome>
    </div>
  );
}

createRoot(document.getElementById('root')!).render(<Page />);
