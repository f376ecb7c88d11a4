// Where the numbers of tokens come from: the file itself.
const embedded = (data) => {
  const layers = data.layers.map((layer) => {
    const value = once(() => floats(layer.values)), error = once(() => floats(layer.errors));
    return { label: layer.label, get: () => ({ value: value(), error: error(), limit: layer.limit }) };
  });
  const given = data.influence;
  if (!given) return { layers, influence: null };
  const blocks = given.blocks.map((each) => once(() => each && floats(each)));
  const blockErrors = given.block_errors.map((each) => once(() => each && floats(each)));
  const value = once(() => floats(given.values)), error = once(() => floats(given.errors));
  const rowOf = once(() => unpack(given.row, Int32Array)), positionOf = once(() => unpack(given.position, Int32Array));

  const entry = (at_, place) => {
    const row = rowOf()[at_], position = positionOf()[at_];
    if (row < 0) return null;
    const { label, passage, tokens } = given.rows[row];
    const span = (from, to) => {
      let text = "";
      for (let n = Math.max(0, from); n < Math.min(tokens.length, to); n++) text += given.vocabulary[tokens[n]];
      return text;
    };
    return {
      value: value()[at_], error: error()[at_], label, position,
      before: span(position - 8, position), word: span(position, position + 1), after: span(position + 1, position + 4),
      local: passage === null ? null : place(passage, position), href: null,
    };
  };
  // Of token n, the m-th of its passage, which has so many.
  // Of token n, the m-th of its passage, which has so many.
  const sides = (n, place) => [0, 1].map((sign) => {
    const entries = [];
    for (let rank = 0; rank < given.rank; rank++) entries.push(entry((n * 2 + sign) * given.rank + rank, place));
    return entries.filter((each) => each !== null);
  });
  const answer = (n, passage, m, length, place) => {
    const part = (array) => array && array.subarray(m * length, (m + 1) * length);
    return { get sides() { return sides(n, place); }, value: part(blocks[passage]()), error: part(blockErrors[passage]()), notes: [] };
  };
  return { layers, influence: { restriction: given.restriction, get: answer } };
};
