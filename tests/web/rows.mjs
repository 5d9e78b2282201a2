// How long a list of ROWS nodes takes the coordinator: pages as a signed-in owner gets them, the API over
// the unix socket. Time from the request to the last byte on loopback, so the server's own time is less.
import { writeFileSync } from "node:fs";
import { request } from "node:https";
import { request as plain } from "node:http";
import { chromium } from "playwright-core";
import { start, totp } from "./coordinator.mjs";

const rows = Number(process.argv[2] ?? 10_000);
const rounds = 40;
console.log(`making a mesh of ${rows} nodes…`);
const server = await start({ seed: rows });
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"] });

/** An owner's cookie, by the way a person takes. */
async function signIn() {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  await page.goto(server.json("admin-link").urls[0]);
  const secret = await page.textContent("#totp-secret");
  await page.fill("input[name=name]", "ada");
  for (const field of ["password", "again"]) await page.fill(`input[name=${field}]`, "four calm words here");
  await page.fill("input[name=code]", totp(secret));
  await page.click("button[type=submit]");
  await page.waitForSelector(".codes");
  const [cookie] = await context.cookies();
  return `${cookie.name}=${cookie.value}`;
}

function fetched(make) {
  return new Promise((done, failed) => {
    const began = performance.now();
    make((answer) => {
      let bytes = 0;
      answer.on("data", (data) => { bytes += data.length; });
      answer.on("end", () => answer.statusCode === 200
        ? done({ ms: performance.now() - began, bytes }) : failed(new Error(`status ${answer.statusCode}`)));
    }).on("error", failed).end();
  });
}

try {
  const cookie = await signIn();
  await browser.close();
  const page = (path) => fetched((then) => request(server.url + path, { headers: { cookie }, rejectUnauthorized: false }, then));
  const api = (path) => fetched((then) => plain({ socketPath: server.socket, path, headers: { host: "coordinator" } }, then));
  const last = Math.ceil(rows / 50);
  const what = [
    ["page /nodes", () => page("/nodes")], ["page /nodes, last", () => page(`/nodes?page=${last}`)],
    ["page /nodes?q=db-3", () => page("/nodes?q=db-3")], ["page /nodes?state=offline", () => page("/nodes?state=offline")],
    ["page /", () => page("/")], ["page /approvals", () => page("/approvals")], ["page /routes", () => page("/routes")],
    ["page /access", () => page("/access")], ["page /audit", () => page("/audit")],
    ["page /tokens", () => page("/tokens")], ["page /dns", () => page("/dns")], ["page /users", () => page("/users")],
    ["page /policy", () => page("/policy")], ["page /nodes/db-3", () => page("/nodes/db-3")],
    ["API nodes?limit=50", () => api("/api/v1/nodes?limit=50")], ["API nodes?q=db-3&limit=50", () => api("/api/v1/nodes?q=db-3&limit=50")],
    ["API nodes, all", () => api("/api/v1/nodes")], ["API routes", () => api("/api/v1/routes")], ["API access", () => api("/api/v1/access")],
    ["API audit", () => api("/api/v1/audit")], ["API tokens", () => api("/api/v1/tokens")], ["API dns/records", () => api("/api/v1/dns/records")],
  ];
  const report = [];
  let late = 0;
  console.log(`${"request".padEnd(28)} ${"median".padStart(8)} ${"p95".padStart(8)} ${"worst".padStart(8)}   bytes   (${rows} nodes, ${rounds} rounds, ms)`);
  for (const [name, ask] of what) {
    const times = [];
    let bytes = 0;
    await ask();
    for (let n = 0; n < rounds; n += 1) { const one = await ask(); times.push(one.ms); bytes = one.bytes; }
    times.sort((a, b) => a - b);
    const [median, p95, worst] = [times[rounds >> 1], times[Math.ceil(rounds * 0.95) - 1], times[rounds - 1]];
    if (median >= 200) late += 1;
    report.push({ request: name, median_ms: +median.toFixed(1), p95_ms: +p95.toFixed(1), worst_ms: +worst.toFixed(1), bytes });
    console.log(`${name.padEnd(28)} ${median.toFixed(1).padStart(8)} ${p95.toFixed(1).padStart(8)} ${worst.toFixed(1).padStart(8)} ${String(bytes).padStart(8)}${median >= 200 ? "   more than 200 ms" : ""}`);
  }
  console.log(late === 0 ? "every median is below 200 ms" : `${late} medians are not below 200 ms`);
  if (process.env.MESHD_REPORT) writeFileSync(process.env.MESHD_REPORT, JSON.stringify({ rows, rounds, requests: report }));
} finally {
  await browser.close().catch(() => {});
  await server.stop();
}
