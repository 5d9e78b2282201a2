// A new user's first mesh, from an empty directory and the printed link alone, by the pages: an account, a token,
// two machines, an approved route, a policy, a split-DNS rule. Every step is clocked; all of it takes less than
// five minutes even for somebody who thinks ten seconds at each click. Run in a network of its own (run.sh --first).
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { chromium } from "playwright-core";
import { program, start, totp } from "./coordinator.mjs";

const LIMIT = 300;
/** What a person takes to read and decide, for each click and each command. */
const THOUGHT = 10;
const meshd = join(dirname(program), "meshd");
const began = Date.now();
let acts = 0;
const steps = [];
const step = (what) => { steps.push([what, ((Date.now() - began) / 1000).toFixed(1)]); };

const dir = mkdtempSync(join(tmpdir(), "meshd-first-"));
const daemons = [];
const server = await start();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"] });

/** A machine without privileges: a daemon of its own, and its commands. */
function machine(name) {
  const home = join(dir, name);
  mkdirSync(home);
  writeFileSync(join(home, "meshd.toml"), "");
  const socket = join(home, "api.sock");
  const daemon = spawn(meshd, ["run", "--tun=userspace", "--socket", socket, "--state-dir", join(home, "state"), "--config", join(home, "meshd.toml")],
    { stdio: "ignore" });
  daemons.push(daemon);
  // Never in the way of this process, which carries what the machines say to the coordinator.
  return async (...words) => (await promisify(execFile)(meshd, ["--socket", socket, ...words], { encoding: "utf8" })).stdout;
}

async function until(what, holds) {
  for (let n = 0; n < 200; n += 1) {
    try { if (await holds()) return; } catch { /* not yet */ }
    await new Promise((done) => setTimeout(done, 200));
  }
  throw new Error(`not in 40 s: ${what}`);
}

try {
  const page = await (await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 860 } })).newPage();
  const click = async (what) => { acts += 1; await page.locator(what).first().click(); };
  const fill = async (where, text) => { acts += 1; await page.locator(where).first().fill(text); };

  const [link] = server.json("admin-link").urls;
  await page.goto(link);
  const secret = await page.textContent("#totp-secret");
  await fill("input[name=name]", "ada");
  for (const field of ["password", "again"]) await fill(`input[name=${field}]`, "four calm words here");
  await fill("input[name=code]", totp(secret));
  await click("button[type=submit]");
  await click("text=I have kept them");
  await page.waitForSelector("h1:has-text('Overview')");
  step("an account");

  await click("nav.menu a[href='/tokens']");
  await fill("#new input[name=uses]", "2");
  await click("#new button[type=submit]");
  const command = await page.textContent("[data-copy]");
  const token = command.match(/mesh_\S+/)[0];
  step("a token");

  const pi = machine("pi");
  const laptop = machine("laptop");
  await until("the daemons", async () => (await pi("status")) && (await laptop("status")));
  for (const [run, ...more] of [[pi, "--advertise-routes=192.168.1.0/24", "--hostname=pi"], [laptop, "--hostname=laptop"]]) {
    acts += 1;
    await run("up", token, ...more);
  }
  step("two machines");

  await click("nav.menu a[href='/approvals']");
  await page.waitForSelector("text=192.168.1.0/24");
  await click("main button:has-text('Approve')");
  await page.waitForSelector(".note.good");
  step("an approved route");

  await click("nav.menu a[href='/policy']");
  await fill("[data-editor] textarea", `{
  // My machines reach each other, and the web and names of the LAN behind the Pi.
  "acls": [
    {"action": "accept", "src": ["ada"], "dst": ["ada:*", "192.168.1.0/24:53,80,443"]},
  ],
  "tests": [
    {"src": "ada", "accept": ["192.168.1.10:443"], "deny": ["192.168.1.10:22"]},
  ],
}
`);
  await click("text=Review the change");
  await page.waitForSelector(".review");
  await click("text=Put it into force");
  await page.waitForSelector(".note.good");
  step("a policy");

  await click("nav.menu a[href='/dns']");
  await fill("form[action='/dns/split'] input[name=domain]", "corp.example");
  await fill("form[action='/dns/split'] input[name=resolvers]", "192.168.1.1");
  await click("form[action='/dns/split'] button[type=submit]");
  await page.waitForSelector(".note.good");
  step("a split-DNS rule");

  // All of it counts on the laptop.
  await until("the split domain on the laptop", async () => /192\.168\.1\.1/.test(await laptop("dns", "explain", "wiki.corp.example")));
  await until("the route on the laptop", async () => /192\.168\.1\.0\/24/.test(await laptop("status", "--json")));
  assert.match(server.run("policy", "explain", "laptop", "192.168.1.1:53"), /allow/i);
  assert.doesNotMatch(server.run("policy", "explain", "laptop", "192.168.1.1:22"), /"allowed": ?true/);
  step("all of it on the laptop");
  const seconds = (Date.now() - began) / 1000;

  // The laptop's page says which way its data goes, as the laptop itself told.
  await until("a path on the laptop's page", async () => {
    await laptop("ping", "-c", "1", "pi");
    await page.goto(`${server.url}/nodes/laptop`);
    return await page.locator("section:has(h2:text('Paths to its peers')) tr:has-text('pi') :text('direct')").count() > 0;
  });
  if (process.env.MESHD_PICTURE) await page.screenshot({ path: process.env.MESHD_PICTURE });
  step("the path on its page");

  for (const [what, at] of steps) console.log(`${at.padStart(6)} s  ${what}`);
  const person = seconds + acts * THOUGHT;
  console.log(`the first mesh: ${seconds.toFixed(1)} s by machine; ${acts} clicks, fields and commands, so ${Math.round(person)} s for a person who takes ${THOUGHT} s for each (aim: below ${LIMIT} s)`);
  assert.ok(person < LIMIT, "more than five minutes");
  if (process.env.MESHD_REPORT) writeFileSync(process.env.MESHD_REPORT, JSON.stringify({ seconds, acts, person_seconds: person, steps }));
} catch (error) {
  console.error(server.log());
  throw error;
} finally {
  await browser.close();
  for (const daemon of daemons) daemon.kill("SIGTERM");
  await server.stop();
  rmSync(dir, { recursive: true, force: true });
}
