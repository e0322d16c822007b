// Three times as much work in hotAlpha as in hotBeta. Runs until it is killed, or for the
// milliseconds of CPU time given as its argument.
'use strict';
function hotAlpha(n) {
  let s = 0;
  for (let i = 0; i < n; i++) s += Math.sqrt(i) * i;
  return s;
}
function hotBeta(n) {
  let s = 0;
  for (let i = 0; i < n; i++) s += Math.sqrt(i) * i;
  return s;
}
const end = process.argv[2] ? 1000 * Number(process.argv[2]) : Infinity;
const used = () => { const { user, system } = process.cpuUsage(); return user + system; };
let t = 0;
while (used() < end) t += hotAlpha(30000) + hotBeta(10000);
console.log(t);
