// Three times as much work in hotAlpha as in hotBeta; it goes on until stdin ends, or for as many
// milliseconds as it is told.
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
const end = process.argv[2] ? Date.now() + Number(process.argv[2]) : Infinity;
let t = 0;
while (Date.now() < end) t += hotAlpha(30000) + hotBeta(10000);
console.log(t);
