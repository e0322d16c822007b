// Works in V8's builtins and the handlers of its interpreter, which have no unwind information:
// strings, numbers, literals, properties of many shapes. Runs until it is killed, or for the
// milliseconds of wall time given as its argument.
'use strict';
const shapes = [];
for (let i = 0; i < 40; i++) shapes.push({['p' + i]: i, common: i, ['q' + i]: [i]});
function innerWork(n) {
  let text = '', sum = 0;
  for (let i = 0; i < n; i++) {
    text += i;
    const o = shapes[i % shapes.length];
    sum += o.common + [i, n, sum].length + ({a: i, b: text}).b.length;
    if (i % 64 === 0) text = text.substring(0, 10).concat(String(sum));
    shapes[i % 7]['p' + i % 7] = sum % 1000;
  }
  return sum;
}
function outerWork(n) {
  const done = innerWork(n);
  return done + 1;
}
const end = process.argv[2] ? Date.now() + Number(process.argv[2]) : Infinity;
let total = 0;
while (Date.now() < end) total += outerWork(2000);
console.log(total);
