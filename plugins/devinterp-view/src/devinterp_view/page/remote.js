// Where the numbers of tokens come from: the server, which computes them when they are asked for.
const source = (() => {
  const server = data.server;
  let answers = new Map();
  const layers = data.layers.map((layer) => {
    let numbers = null;
    return {
      label: layer.label,
      get: () => numbers,
      forget: () => { numbers = null; },
      ask: async (tell) => {
        const query = { run: server.run, observable: server.observable, page: server.page, kind: layer.kind, restriction: layer.restriction };
        const answer = await stream("layer", query, { tell });
        numbers = { value: floats(answer.values), error: floats(answer.errors), limit: answer.limit };
      },
    };
  });
  const influence = data.influence && {
    restriction: data.influence.restriction,
    get: (n) => answers.get(n) || null,
    ask: async (n, { tell, signal, refresh }) => {
      const { passage, position, place } = explorer.at(n);
      const { observable, sequence } = data.passages[passage];
      const query = { run: server.run, observable, sequence, token: position, restriction: server.restriction };
      const before = answers, keep = (answer, isPartial) => before.set(n, {
        sides: answer.sides.map((side) => side.map((each) => ({ ...each, local: place(each.observable, each.sequence, each.position) }))),
        value: floats(answer.value), error: answer.error === null ? null : floats(answer.error), notes: answer.notes, isPartial,
      });
      const give = (some) => { keep(some[some.length - 1], true); refresh(); };
      try {
        keep(await stream("influence", query, { tell, signal, give }), false);
      } catch (error) {
        before.delete(n);
        throw error;
      }
    },
  };
  return { layers, influence, forget: () => { answers = new Map(); layers.forEach((each) => each.forget()); } };
})();
let explorer = null;
