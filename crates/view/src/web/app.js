// Runs the page of `exoprof view --http`. The URL holds the view and its options, so that it can be
// shared and the browser's Back button works.
'use strict';
(() => {
  const at = (id) => document.getElementById(id);
  const OPTIONS = ['sample_index', 'focus', 'ignore', 'hide', 'show', 'granularity'];
  const TEXTS = ['tree', 'peek', 'list', 'tags'];
  const ON = ['peek', 'list'];
  let sort = 'flat';
  let rows = [];
  let asked = 0;

  const state = () => {
    const [view, query] = location.hash.slice(1).split('?');
    return { view: view || 'flame', query: new URLSearchParams(query || '') };
  };
  const go = (view, changes) => {
    const { query } = state();
    for (const key in changes) query.set(key, changes[key]);
    for (const key of [...query.keys()]) if (!query.get(key)) query.delete(key);
    const text = query.toString();
    location.hash = text ? `${view}?${text}` : view;
  };

  const ask = async (path, query) => {
    const answer = await fetch(`${path}?${query}`);
    if (!answer.ok) throw new Error((await answer.text()).trim());
    return answer;
  };
  const options = (query) => {
    const chosen = new URLSearchParams();
    for (const key of OPTIONS) if (query.get(key)) chosen.set(key, query.get(key));
    return chosen;
  };

  // A regular expression that matches only this name.
  const exactly = (name) => `^${name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}$`;

  const drawTable = () => {
    const head = at('table').tHead;
    const body = at('table').tBodies[0];
    head.replaceChildren();
    body.replaceChildren();
    const titles = head.insertRow();
    for (const [key, title] of [['flat', 'flat'], [null, 'flat%'], ['cum', 'cum'], [null, 'cum%'], ['name', 'name']]) {
      const cell = document.createElement('th');
      if (key) {
        const button = document.createElement('button');
        button.type = 'button';
        button.textContent = key === sort ? `${title} ▼` : title;
        button.addEventListener('click', () => { sort = key; drawTable(); });
        cell.appendChild(button);
      } else {
        cell.textContent = title;
      }
      titles.appendChild(cell);
    }
    const by = {
      flat: () => 0,
      cum: (a, b) => Math.abs(b.cum[0]) - Math.abs(a.cum[0]),
      name: (a, b) => (a.name < b.name ? -1 : 1),
    }[sort];
    for (const row of [...rows].sort(by)) {
      const line = body.insertRow();
      for (const value of [row.flat, row.cum]) {
        line.insertCell().textContent = value[1];
        line.insertCell().textContent = value[2];
      }
      const cell = line.insertCell();
      for (const [view, text] of [['peek', `${row.name} ${row.inlined}`.trim()], ['list', 'source']]) {
        const link = document.createElement('a');
        const { query } = state();
        query.set('on', exactly(row.name));
        link.href = `#${view}?${query}`;
        link.textContent = text;
        cell.appendChild(link);
      }
    }
  };

  const shows = {
    flame: async (query) => {
      const get = async (by, inverted) => {
        const wanted = options(query);
        if (by) wanted.set('by', by);
        if (inverted) wanted.set('inverted', 'true');
        return (await ask('api/flame', wanted)).json();
      };
      const first = await get('', false);
      return () => window.exoprofFlame.load(first, get);
    },
    top: async (query) => {
      const answer = await (await ask('api/top', options(query))).json();
      return () => {
        rows = answer.rows;
        at('details').textContent = answer.header.concat(answer.warnings).join(' · ');
        drawTable();
      };
    },
    text: async (query, view) => {
      const wanted = options(query);
      wanted.set('form', view);
      if (ON.includes(view)) {
        if (!query.get('on')) return () => { at('text').textContent = 'Enter a regular expression for the functions to show.'; };
        wanted.set('on', query.get('on'));
      }
      const text = await (await ask('api/text', wanted)).text();
      return () => { at('text').textContent = text; };
    },
  };

  const show = async () => {
    const { view, query } = state();
    const mine = ++asked;
    for (const link of document.querySelectorAll('nav [data-view]')) {
      const own = link.dataset.view;
      const text = query.toString();
      link.href = text ? `#${own}?${text}` : `#${own}`;
      if (own === view) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
    for (const key of OPTIONS.concat('on')) {
      if (query.get(key)) at(key).value = query.get(key);
      else if (at(key).tagName === 'INPUT') at(key).value = '';
    }
    at('on').hidden = !ON.includes(view);
    at('message').textContent = '';
    at('details').textContent = 'loading…';
    try {
      const draw = await (TEXTS.includes(view) ? shows.text : shows[view] || shows.flame)(query, view);
      if (mine !== asked) return;
      at('details').textContent = '';
      at('flame').toggleAttribute('hidden', view !== 'flame');
      at('controls').hidden = view !== 'flame';
      at('table').hidden = view !== 'top';
      at('text').hidden = !TEXTS.includes(view);
      draw();
      document.body.dataset.shown = location.hash;
    } catch (e) {
      if (mine !== asked) return;
      at('details').textContent = '';
      at('message').textContent = e.message;
    }
  };

  at('filters').addEventListener('submit', (event) => {
    event.preventDefault();
    const changes = {};
    for (const key of OPTIONS.concat('on')) changes[key] = at(key).value;
    go(state().view, changes);
  });
  for (const key of ['sample_index', 'granularity']) {
    at(key).addEventListener('change', () => at('filters').requestSubmit());
  }
  // The flame graph's keys only apply while it is visible.
  document.addEventListener('keydown', (event) => {
    if (state().view !== 'flame') event.stopImmediatePropagation();
  }, true);
  window.addEventListener('hashchange', show);
  const head = new ResizeObserver(([entry]) => {
    document.body.style.setProperty('--head', `${entry.target.offsetHeight}px`);
  });
  head.observe(document.querySelector('header'));

  (async () => {
    const about = await (await ask('api/about', '')).json();
    at('about').textContent = about.about.join('\n');
    at('title').textContent = about.title;
    document.title = `${at('title').textContent} · exoprof`;
    about.types.forEach((type, nth) => {
      const option = document.createElement('option');
      option.value = nth === about.default ? '' : type;
      option.textContent = type;
      option.selected = nth === about.default;
      at('sample_index').appendChild(option);
    });
    show();
  })().catch((e) => { at('message').textContent = e.message; });
})();
