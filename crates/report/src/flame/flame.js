// Draws an interactive flame graph: zoom, search, invert, group by a label. It uses no library and
// sends no request. It runs in a page (controls are HTML elements) or in an SVG (controls are text).
'use strict';
(() => {
  const SVG = 'http://www.w3.org/2000/svg';
  const ROW = 18;
  const NARROWEST = 0.6;
  const NAMED = 28;
  // At most this many origins in the legend.
  const LEGEND = 8;
  const UNKNOWN = 'unknown';
  const CHARACTER = 7.3;
  const home = document.getElementById('exoprof');
  const flame = document.getElementById('flame');
  const details = document.getElementById('details');
  const controls = document.getElementById('controls');
  const isPage = !home.classList.contains('image');
  let data = null;
  // Fetches a document with a tree that this one does not have.
  let fetchTree = null;
  let tree = null;
  let zoom = -1;
  let current = -1;
  let pattern = null;
  let matched = new Set();
  // The origin whose frames are highlighted.
  let marked = -1;

  const svg = (name, attributes, parent) => {
    const element = document.createElementNS(SVG, name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (parent) parent.appendChild(element);
    return element;
  };

  // Turns rows of numbers into columns. A node's callees follow it and are deeper.
  const open = (source) => {
    const width = data.diff ? 4 : 3;
    const count = source.nodes.length / width;
    const t = { count, names: source.names || data.names,
      origin: source.origin || data.origin, origins: source.origins || data.origins, source, name: [], depth: [], weight: [], base: [], x: [], parent: [], end: [] };
    const path = [];
    for (let i = 0; i < count; i++) {
      const at = i * width;
      const depth = source.nodes[at + 1];
      while (path.length > depth) t.end[path.pop().node] = i;
      const above = path.length ? path[path.length - 1] : top_;
      t.name[i] = source.nodes[at];
      t.depth[i] = depth;
      t.weight[i] = source.nodes[at + 2];
      t.base[i] = data.diff ? source.nodes[at + 3] : 0;
      t.x[i] = above.next;
      t.parent[i] = above.node;
      above.next += t.weight[i];
      path.push({ node: i, next: t.x[i] });
    }
    for (const { node } of path) t.end[node] = count;
    top_.next = 0;
    return t;
  };
  const top_ = { node: -1, next: 0 };

  const scaled = (value, units) => {
    let [name, factor] = units[0];
    for (const unit of units) if (value >= unit[1]) [name, factor] = unit;
    return `${(value / factor).toFixed(2).replace(/\.00$/, '')}${name}`;
  };
  const label = (value) => {
    if (value < 0) return `-${label(-value)}`;
    const unit = data.unit.toLowerCase();
    const ns = { nanoseconds: 1, microseconds: 1e3, milliseconds: 1e6, seconds: 1e9 }[unit];
    if (ns) return scaled(value * ns, [['ns', 1], ['us', 1e3], ['ms', 1e6], ['s', 1e9], ['hrs', 3600e9]]);
    if (unit === 'bytes') {
      return scaled(value, ['B', 'kB', 'MB', 'GB', 'TB', 'PB'].map((n, i) => [n, 1024 ** i]));
    }
    return unit === 'count' || unit === '' ? String(value) : `${value} ${data.unit}`;
  };
  const percent = (part, whole) => `${(whole ? part * 100 / whole : 0).toFixed(2)}%`;
  const nameOf = (i) => tree.names[tree.name[i]];

  const describe = (i) => {
    const weight = tree.weight[i];
    let text;
    if (data.diff) {
      const change = weight - 2 * tree.base[i];
      text = `${nameOf(i)}: ${label(weight - tree.base[i])}, before ${label(tree.base[i])} (${change > 0 ? '+' : ''}${label(change)})`;
    } else {
      text = `${nameOf(i)}: ${label(weight)} (${percent(weight, data.total)})`;
      let callees = 0;
      for (let c = i + 1; c < tree.end[i]; c = tree.end[c]) callees += tree.weight[c];
      if (weight > callees) text += `, self ${label(weight - callees)}`;
      if (zoom >= 0) text += `, ${percent(weight, tree.weight[zoom])} of the zoomed frame`;
    }
    const origin = tree.origins[tree.origin[tree.name[i]]];
    return origin && origin[0] !== UNKNOWN ? `${text} · ${origin[0]}` : text;
  };

  const shift = (name) => {
    let hash = 7;
    for (let i = 0; i < name.length; i++) hash = (Math.imul(hash, 31) + name.charCodeAt(i)) >>> 0;
    return (hash >>> 3) % 9 - 4;
  };

  // Shortens a name to `room` characters: drops the path of its package first, then every
  // qualifier, because many names share those.
  const fitted = (name, room) => {
    const unpathed = name.replace(/^(?:[\w.~-]+\/)+(?=[\w.-]+\.)/, '');
    const bare = unpathed.replace(/^(?:\w+::)+(?=[\w~{])/, '').replace(/^\w+\.(?=[\w(])/, '');
    const fits = [name, unpathed, bare].find((text) => text.length <= room);
    return fits || `${bare.slice(0, Math.max(1, room - 1))}…`;
  };

  const frame = (i, x, share, width, isAbove) => {
    const name = nameOf(i);
    const classes = ['frame'];
    if (isAbove) classes.push('above');
    const origin = tree.origins[tree.origin[tree.name[i]]];
    if (!origin) classes.push('rest');
    if (matched.has(i)) classes.push('match');
    const g = svg('svg', {
      x: `${x * 100}%`, y: tree.depth[i] * ROW, width: `${share * 100}%`, height: ROW - 1,
      tabindex: i === current ? 0 : -1, role: 'treeitem', 'data-node': i,
    });
    g.style.setProperty('--hue', origin ? origin[1] : 0);
    g.style.setProperty('--shift', shift(name));
    if (data.diff) {
      const change = (tree.weight[i] - 2 * tree.base[i]) / tree.weight[i];
      classes.push(change > 0 ? 'more' : change < 0 ? 'less' : 'same');
      g.style.setProperty('--much', Math.abs(change));
    }
    g.setAttribute('class', classes.join(' '));
    svg('title', {}, g).textContent = describe(i);
    svg('rect', { width: '100%', height: '100%' }, g);
    if (share * width >= NAMED) {
      const room = Math.floor((share * width - 6) / CHARACTER);
      svg('text', { x: 3, y: 13 }, g).textContent = fitted(name, room);
    }
    return g;
  };

  const draw = () => {
    // The inner element of an image includes the text that sticks out of it.
    const width = (isPage ? flame : home).getBoundingClientRect().width || 1200;
    const all = document.createDocumentFragment();
    let rows = 1;
    const total = zoom >= 0 ? tree.weight[zoom] : data.total;
    const left = zoom >= 0 ? tree.x[zoom] : 0;
    for (let a = zoom >= 0 ? tree.parent[zoom] : -1; a >= 0; a = tree.parent[a]) {
      all.appendChild(frame(a, 0, 1, width, true));
    }
    let i = zoom >= 0 ? zoom : 0;
    const end = zoom >= 0 ? tree.end[zoom] : tree.count;
    while (i < end) {
      const share = tree.weight[i] / total;
      if (share * width < NARROWEST) {
        i = tree.end[i];
        continue;
      }
      all.appendChild(frame(i, (tree.x[i] - left) / total, share, width, false));
      rows = Math.max(rows, tree.depth[i] + 1);
      i++;
    }
    flame.replaceChildren(all);
    flame.setAttribute('height', rows * ROW);
    if (isPage) {
      flame.style.height = `${rows * ROW}px`;
    } else {
      const height = 48 + rows * ROW + 24;
      home.setAttribute('height', height);
      details.setAttribute('y', height - 8);
    }
    flame.dataset.frames = flame.childElementCount;
  };

  // Highlights frames and shows their weight. Each stack counts once.
  const mark = (matches) => {
    matched = new Set();
    if (matches) {
      let sum = 0;
      let covered = 0;
      for (let i = 0; i < tree.count; i++) {
        if (!matches(i)) continue;
        matched.add(i);
        if (i < covered) continue;
        covered = tree.end[i];
        sum += tree.weight[i];
      }
      const count = matched.size === 1 ? '1 frame matches' : `${matched.size} frames match`;
      showDetails(`${count}: ${label(sum)} (${percent(sum, data.total)})`);
    } else {
      showDetails('');
    }
    draw();
  };

  const search = (text) => {
    pattern = null;
    marked = -1;
    if (text) {
      try {
        pattern = new RegExp(text, /[A-Z]/.test(text) ? '' : 'i');
      } catch (e) {
        return e.message;
      }
    }
    const hits = text && tree.names.map((name) => pattern.test(name));
    mark(text ? (i) => hits[tree.name[i]] : null);
    refresh();
    return '';
  };

  const markOrigin = (origin) => {
    pattern = null;
    marked = marked === origin ? -1 : origin;
    mark(marked < 0 ? null : (i) => tree.origin[tree.name[i]] === marked);
    refresh();
  };

  // The text while no frame is selected.
  const idle = () => {
    const all = data.diff
      ? `${label(data.total - data.base)}, before ${label(data.base)}`
      : `${label(data.total)} total`;
    return `${data.type}: ${all}`;
  };
  const showDetails = (text) => { details.textContent = text || idle(); };

  const zoomTo = (i) => {
    zoom = i;
    current = Math.max(i, 0);
    draw();
    focus(current);
  };

  const focus = (i) => {
    const element = flame.querySelector(`[data-node="${i}"]`);
    if (!element) return;
    const before = flame.querySelector('[tabindex="0"]');
    if (before) before.setAttribute('tabindex', -1);
    current = i;
    element.setAttribute('tabindex', 0);
    element.focus({ preventScroll: false });
    showDetails(describe(i));
  };

  const show = (by, inverted) => {
    const source = data.trees.find((t) => t.by === by && t.inverted === inverted);
    if (!source && fetchTree) {
      const from = data;
      showDetails('loading…');
      fetchTree(by, inverted).then((other) => {
        for (const found of other.trees) {
          const { names, origin, origins } = other;
          from.trees.push({ ...found, names, origin, origins });
        }
        if (from === data) show(by, inverted);
      }, (e) => showDetails(e.message));
      return;
    }
    tree = open(source || data.trees[0]);
    showDetails('');
    zoom = -1;
    current = 0;
    const text = pattern ? pattern.source : '';
    pattern = null;
    marked = -1;
    matched = new Set();
    if (text) search(text); else draw();
    refresh();
  };

  const groupings = () => ['', ...data.labels];
  const invert = () => show(tree.source.by, !tree.source.inverted);
  const nextGrouping = () => {
    const all = groupings();
    show(all[(all.indexOf(tree.source.by) + 1) % all.length], tree.source.inverted);
  };
  let refresh = () => {};
  let askSearch = () => {};
  let help = () => {};

  const KEYS = [
    ['←→↑↓', 'move between frames'],
    ['Enter', 'zoom in'],
    ['Esc', 'zoom out'],
    ['/', 'search (a regular expression)'],
    ['i', 'invert: callers below their callees'],
    ['t', 'group by thread or another label'],
    ['?', 'show the keys'],
  ];

  const pageControls = () => {
    const add = (tag, properties) => {
      const element = Object.assign(document.createElement(tag), properties);
      controls.appendChild(element);
      return element;
    };
    controls.replaceChildren();
    const input = add('input', {
      type: 'search', id: 'search', placeholder: 'Search (regular expression)',
    });
    input.setAttribute('aria-label', 'Search');
    input.addEventListener('input', () => input.setCustomValidity(search(input.value)));
    const direction = add('button', { id: 'invert', type: 'button' });
    direction.addEventListener('click', invert);
    const select = add('select', { id: 'by' });
    select.setAttribute('aria-label', 'Group by');
    select.addEventListener('change', () => show(select.value, tree.source.inverted));
    const reset = add('button', { id: 'reset', type: 'button', textContent: 'Reset zoom' });
    reset.addEventListener('click', () => zoomTo(-1));
    const question = add('button', { id: 'help', type: 'button', textContent: 'Keys' });
    const dialog = document.createElement('dialog');
    const table = document.createElement('table');
    for (const [key, does] of KEYS) {
      const row = table.insertRow();
      row.insertCell().textContent = key;
      row.insertCell().textContent = does;
    }
    dialog.appendChild(table);
    controls.appendChild(dialog);
    const legend = add('div', { id: 'legend' });
    help = () => (dialog.open ? dialog.close() : dialog.showModal());
    question.addEventListener('click', help);
    dialog.addEventListener('click', help);
    askSearch = () => { input.focus(); input.select(); };
    refresh = () => {
      direction.textContent = 'Invert';
      direction.setAttribute('aria-pressed', tree.source.inverted);
      select.replaceChildren();
      for (const by of groupings()) {
        const option = document.createElement('option');
        option.value = by;
        option.textContent = by ? `Group by ${by}` : "Don't group";
        option.selected = by === tree.source.by;
        select.appendChild(option);
      }
      select.hidden = select.options.length < 2;
      legend.replaceChildren();
      const all = tree.origins.reduce((sum, [, , weight]) => sum + weight, 0);
      tree.origins.slice(0, LEGEND).forEach(([name, hue, weight], nth) => {
        if (weight * 100 < all || data.diff || tree.origins.length < 2) return;
        const chip = document.createElement('button');
        chip.type = 'button';
        chip.className = 'chip';
        chip.style.setProperty('--hue', hue);
        chip.textContent = `${name} ${Math.round(weight * 100 / all)}%`;
        chip.title = `${label(weight)} in ${name}, without its callees`;
        chip.setAttribute('aria-pressed', nth === marked);
        chip.addEventListener('click', () => markOrigin(nth));
        legend.appendChild(chip);
      });
    };
    const about = document.getElementById('about');
    if (about) about.textContent = data.about;
  };

  const imageControls = () => {
    controls.replaceChildren();
    askSearch = () => {
      const text = prompt('Search (a regular expression)', pattern ? pattern.source : '');
      if (text !== null) {
        const error = search(text);
        if (error) showDetails(error);
      }
    };
    help = () => showDetails(KEYS.map(([key, does]) => `${key}: ${does}`).join('  '));
    let x = 8;
    const add = (text, action) => {
      const button = svg('text', { x, y: 38, class: 'button', role: 'button' }, controls);
      button.textContent = text;
      button.addEventListener('click', action);
      x += text.length * CHARACTER + 20;
    };
    add('Search', () => askSearch());
    add('Invert', invert);
    if (groupings().length > 1) add('Group', nextGrouping);
    add('Reset zoom', () => zoomTo(-1));
    add('Keys', () => help());
  };

  const nodeOf = (event) => {
    const element = event.target.closest && event.target.closest('[data-node]');
    return element ? Number(element.getAttribute('data-node')) : -1;
  };

  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !tree) return;
    if (event.target.closest && event.target.closest('input, select, textarea')) {
      if (event.key === 'Escape' || event.key === 'Enter') focus(Math.max(zoom, 0));
      return;
    }
    const step = (to) => { if (to >= 0 && to < tree.count) focus(to); };
    const parent = current >= 0 ? tree.parent[current] : -1;
    const handlers = {
      ArrowDown: () => { if (tree.end[current] > current + 1) step(current + 1); },
      ArrowUp: () => step(parent),
      ArrowRight: () => {
        const next = tree.end[current];
        if (next < (parent >= 0 ? tree.end[parent] : tree.count)) step(next);
      },
      ArrowLeft: () => {
        let before = parent + 1;
        while (before < current && tree.end[before] < current) before = tree.end[before];
        if (before < current) step(before);
      },
      Enter: () => { if (!event.target.closest || !event.target.closest('button')) zoomTo(current); },
      Escape: () => zoomTo(zoom >= 0 ? tree.parent[zoom] : -1),
      '/': () => askSearch(),
      i: invert,
      t: nextGrouping,
      '?': () => help(),
    };
    const handler = handlers[event.key];
    if (!handler) return;
    if (event.key !== 'Enter') event.preventDefault();
    handler();
  };

  const load = (document_, fetchTree_) => {
    data = document_;
    fetchTree = fetchTree_ || null;
    if (isPage) pageControls(); else imageControls();
    // The minimum width is for viewers that do not run this script.
    home.style.minWidth = '';
    show('', false);
  };

  flame.addEventListener('click', (event) => {
    const i = nodeOf(event);
    if (i >= 0) zoomTo(i === zoom ? tree.parent[i] : i);
  });
  flame.addEventListener('mouseover', (event) => {
    const i = nodeOf(event);
    if (i >= 0) showDetails(describe(i));
  });
  flame.addEventListener('mouseleave', () => { if (tree && !matched.size) showDetails(''); });
  document.addEventListener('keydown', onKey);
  let pending = 0;
  window.addEventListener('resize', () => {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(() => { if (tree) draw(); });
  });

  window.exoprofFlame = { load, redraw: () => { if (tree) draw(); } };
  const embedded = document.getElementById('data');
  if (embedded) load(JSON.parse(embedded.textContent));
})();
