// Every screen for every role in headless Chromium: no error, no CSP violation, no serious finding of axe-core;
// what a role may not is neither shown nor answered. Takes the screenshots of docs/guide with --screenshots DIR.
// --quick (for CI): axe-core looks at each screen once, as its owner, and does not look again in the dark and on a phone.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { start, totp } from "./coordinator.mjs";

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const place = process.argv.indexOf("--screenshots");
const quick = process.argv.includes("--quick");
const shots = place > 0 ? process.argv[place + 1] : null;
const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];

/** Screens and the roles that may see them. */
const all = ["member", "auditor", "network-admin", "admin", "owner"];
const readers = all.slice(1);
const admins = ["admin", "owner"];
const screens = [
  ["/", all, "overview"], ["/nodes", readers, "nodes"], ["/nodes/pi-1", readers, "node"], ["/approvals", readers, "approvals"],
  ["/routes", readers, "routes"], ["/relays", readers, "relays"], ["/policy", readers, "policy"], ["/policy/history", readers, "policy-history"],
  ["/access", readers, "access"], ["/access?from=ada-laptop-1&to=db-1:5432&protocol=tcp", readers, "explain"], ["/dns", readers, "dns"],
  ["/tokens", readers, "tokens"], ["/api-tokens", admins, "api-tokens"], ["/users", admins, "users"], ["/audit", readers, "audit"],
  ["/settings", readers, "settings"], ["/account", all, "account"],
];

const began = Date.now();
// Playwright waits without a limit for what a page evaluates and for a new page. Where nothing moves any more, the
// run ends and says where.
const STILL = 300_000;
let doing = "starting", moved = Date.now();
function step(what) { doing = what; moved = Date.now(); }
setInterval(() => {
  if (Date.now() - moved < STILL) return;
  console.error(`web: nothing has moved for ${STILL / 1000} s while: ${doing}\n${server.log()}`);
  process.exit(1);
}, 5_000).unref();
const server = await start({ seed: 40 });
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: flags });
let checks = 0;
const complaints = [];

async function person(options = {}) {
  step("a new page");
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 860 }, ...options });
  // A machine that does other things as well is slow, not wrong.
  context.setDefaultTimeout(120_000);
  const page = await context.newPage();
  page.on("framenavigated", () => step(page.url()));
  page.on("console", (message) => {
    // A refused page is an answer, not a fault of the page.
    if (message.type() === "error" && !/status of (401|403|404|410|422|429)/.test(message.text())) complaints.push(`${page.url()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`${page.url()}: ${error}`));
  if (options.javaScriptEnabled !== false) {
    await page.addInitScript(() => document.addEventListener("securitypolicyviolation", (e) => console.error(`CSP: ${e.violatedDirective} ${e.blockedURI} ${e.sample}`)));
  }
  return page;
}

async function shoot(page, name) {
  if (!shots) return;
  step(`the picture ${name}`);
  await page.screenshot({ path: join(shots, `${name}.png`) });
}

/** No inline script may run, so axe is brought in by the test's own way, past the policy. */
async function look(page, what) {
  step(`axe-core on ${what}`);
  await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const bad = violations.filter((v) => ["serious", "critical"].includes(v.impact));
  assert.deepEqual(bad.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.html).join(" | ")}`), [], `axe-core on ${what}`);
  checks += 1;
}

async function accept(page, url, name, password) {
  await page.goto(url);
  const secret = await page.textContent("#totp-secret");
  const field = page.locator("input[name=name]");
  if (await field.isEditable()) await field.fill(name);
  await page.fill("input[name=password]", password);
  await page.fill("input[name=again]", password);
  await page.fill("input[name=code]", totp(secret));
  return secret;
}

const password = "four calm words here";
try {
  // First run: the link of the console, a password, a code.
  const link = server.json("admin-link");
  assert.equal(link.urls.length, 1);
  const first = await person();
  await first.goto(server.url);
  assert.ok(first.url().startsWith(`${server.url}/login`), "nobody is in yet");
  await look(first, "login");
  await shoot(first, "login");
  // Whoever opens the link beforehand learns nothing of the second factor of who uses it.
  const stranger = await person();
  await stranger.goto(link.urls[0]);
  const seen = await stranger.textContent("#totp-secret");
  await stranger.reload();
  assert.equal(await stranger.textContent("#totp-secret"), seen, "a reload shows the same secret");
  const secret = await accept(first, link.urls[0], "ada", password);
  assert.notEqual(secret, seen, "another browser has another secret");
  await look(first, "welcome");
  await shoot(first, "welcome");
  await first.click("button[type=submit]");
  await first.waitForSelector(".codes");
  assert.equal(await first.locator(".codes li").count(), 10);
  const recovery = await first.locator(".codes li").first().textContent();
  await look(first, "recovery codes");
  await first.click("text=I have kept them");
  await first.waitForSelector("h1:has-text('Overview')");
  assert.equal((await (await person()).goto(link.urls[0])).status(), 410, "a link opens once");

  // A wrong code, the same code again, then a good one, then a recovery code.
  const door = await person();
  const signIn = async (name, code) => {
    await door.goto(`${server.url}/login?next=/nodes`);
    await door.fill("input[name=name]", name);
    await door.fill("input[name=password]", password);
    await door.fill("input[name=code]", code);
    await door.click("button[type=submit]");
  };
  await signIn("ada", "000000");
  assert.match(await door.textContent("[role=alert]"), /do not fit together/);
  // Made once: half a minute may end between the two, and the next one's code would be good again.
  const code = totp(secret, 1);
  await signIn("ada", code);
  await door.waitForURL(`${server.url}/nodes`);
  await door.context().clearCookies();
  await signIn("ada", code);
  assert.match(await door.textContent("[role=alert]"), /do not fit together/, "a code opens once");
  await signIn("ada", recovery);
  await door.waitForURL(`${server.url}/nodes`);
  await door.context().clearCookies();
  await signIn("ada", recovery);
  assert.match(await door.textContent("[role=alert]"), /do not fit together/, "a recovery code opens once");

  // Everybody else by invitation.
  const people = { owner: first };
  for (const role of all.slice(0, 4)) {
    const made = server.json("users", "invite", "--role", role, "--name", `${role}-1`);
    const page = await person();
    await accept(page, made.urls[0], "", password);
    await page.click("button[type=submit]");
    await page.waitForSelector(".codes");
    await page.click("text=I have kept them");
    people[role] = page;
  }

  for (const role of all) {
    const page = people[role];
    for (const [path, who, name] of screens) {
      const answer = await page.goto(server.url + path, { waitUntil: "load" });
      assert.equal(answer.status(), who.includes(role) ? 200 : 403, `${path} for ${role}`);
      const head = answer.headers();
      assert.match(head["content-security-policy"], /default-src 'none'/);
      assert.ok(!/unsafe/.test(head["content-security-policy"]) && head["x-content-type-options"] === "nosniff" && head["cache-control"] === "no-store");
      if (!quick || role === "owner") await look(page, `${path} for ${role}`);
      const links = await page.locator("nav.menu a").evaluateAll((list) => list.map((a) => a.getAttribute("href")));
      if (answer.status() === 200) {
        const expected = screens.filter(([p, w]) => w.includes(role) && /^\/[a-z-]*$/.test(p) && p !== "/account").map(([p]) => p);
        assert.deepEqual([...links].sort(), [...expected].sort(), `what ${role} is led to`);
      }
      if (role === "owner") await shoot(page, name);
      if (role === "auditor" || role === "member") {
        const buttons = page.locator("main form[method=post]:not([action='/account/password']):not([action='/account/recovery']):not([action='/account/sessions/end']):not([action='/audit/verify']):not([action='/policy/review'])");
        assert.equal(answer.status() === 200 ? await buttons.count() : 0, 0, `${path} offers ${role} nothing to change`);
      }
    }
  }

  // Dark, and on a phone.
  const cookies = await first.context().cookies();
  // The session and the mark of a browser that was let in before; the link's own cookie went with the link.
  assert.deepEqual(cookies.map((c) => [c.name, c.secure, c.httpOnly, c.sameSite, c.path]).sort(),
    ["__Host-meshd", "__Host-meshd-browser"].map((name) => [name, true, true, "Strict", "/"]));
  for (const [name, options] of [["dark", { colorScheme: "dark" }], ["phone", { viewport: { width: 390, height: 844 } }]]) {
    const page = await person(options);
    await page.context().addCookies(cookies);
    for (const [path, , screen] of screens) {
      await page.goto(server.url + path);
      if (!quick) await look(page, `${path}, ${name}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth + 1);
      assert.ok(!wide, `${path} does not fit, ${name}`);
      await shoot(page, `${screen}-${name}`);
    }
    await page.context().close();
  }

  // The alarm itself: a script that the policy forbids does not run, and is noticed.
  await first.goto(server.url);
  await first.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "window.ran = true";
    document.body.append(script);
  });
  assert.equal(await first.evaluate(() => window.ran), undefined, "an inline script ran");
  for (let n = 0; n < 50 && !complaints.some((c) => /CSP|Content Security Policy/.test(c)); n += 1) await first.waitForTimeout(100);
  assert.ok(complaints.some((c) => /CSP|Content Security Policy/.test(c)), "a violation goes unnoticed");
  assert.deepEqual(complaints.filter((c) => !/CSP|Content Security Policy/.test(c)), [], "console errors");
  complaints.length = 0;

  // Search as one types, paging on the server.
  await first.goto(`${server.url}/nodes`);
  await first.fill("input[type=search]", "db-3");
  await first.waitForFunction(() => document.querySelectorAll("#list tbody tr").length === 1);
  assert.match(first.url(), /q=db-3/);

  // An approval, by keyboard, on another person's live page.
  const watcher = people.auditor;
  await watcher.goto(`${server.url}/approvals`);
  const before = Number(await watcher.textContent("[data-live=waiting]"));
  await first.goto(`${server.url}/approvals`);
  await first.locator("main button:has-text('Approve')").first().focus();
  await first.keyboard.press("Enter");
  await first.waitForSelector(".note.good");
  await watcher.waitForFunction((n) => Number(document.querySelector("[data-live=waiting]").textContent) === n - 1, before, { timeout: 15_000 });
  await watcher.waitForFunction((n) => document.querySelectorAll("#live tbody tr").length === n - 1, before, { timeout: 15_000 });

  // A join token: shown once, with a picture.
  await first.goto(`${server.url}/tokens`);
  await first.fill("#new input[name=note]", "a new laptop");
  await first.click("#new button[type=submit]");
  const command = await first.textContent("[data-copy]");
  assert.match(command, /^sudo meshd up mesh_/);
  await look(first, "a new token");
  await shoot(first, "token-made");
  await first.goto(`${server.url}/tokens`);
  assert.equal(await first.locator("[data-copy]").count(), 0, "the secret is shown once");

  // Split DNS by form: a domain, everything else, away again; what is no resolver is refused with the reason.
  const names = async (action, fields) => {
    await first.goto(`${server.url}/dns`);
    for (const [field, value] of Object.entries(fields)) await first.fill(`form[action='${action}'] input[name=${field}]`, value);
    await first.click(`form[action='${action}'] button[type=submit]`);
    await first.waitForSelector(".note");
  };
  await names("/dns/split", { domain: "corp.example", resolvers: "192.168.1.1, 192.168.1.2:5353" });
  await names("/dns/resolving", { nameservers: "9.9.9.9", search: "corp.example" });
  const { search, split, nameservers } = server.json("dns", "settings");
  assert.deepEqual({ search, split, nameservers }, {
    search: ["corp.example"], split: [{ domain: "corp.example", upstreams: ["192.168.1.1", "192.168.1.2:5353"] }], nameservers: ["9.9.9.9"],
  });
  await shoot(first, "dns-split");
  await look(first, "split DNS");
  await names("/dns/resolving", { nameservers: "127.0.0.1", search: "" });
  assert.match(await first.textContent(".note.bad"), /another resolver on every node/);
  await first.locator("tr:has-text('corp.example and below') summary").click();
  await first.locator("tr:has-text('corp.example and below') .ask-box button").click();
  await first.waitForSelector(".note.good");
  assert.deepEqual(server.json("dns", "settings").split, []);

  // The policy: a fault with its place, the difference, into force, refused when it cuts, back again.
  const editor = () => first.locator("[data-editor] textarea");
  const review = async (text) => { await first.goto(`${server.url}/policy`); await editor().fill(text); await first.click("text=Review the change"); };
  const text = await (async () => { await first.goto(`${server.url}/policy`); return await editor().inputValue(); })();
  await review(text.replace('"tag:db:22,5432"', '"tag:nope:22", 7'));
  assert.match(await first.textContent(".remarks"), /line \d+, column \d+/);
  await first.click(".remarks button");
  await look(first, "policy with a fault");
  await shoot(first, "policy-fault");
  await review(text.replace('"tag:web:22,443"', '"tag:web:443,8443"'));
  await first.waitForSelector(".review");
  assert.match(await first.textContent(".gained"), /8443/);
  assert.match(await first.textContent(".lost"), /tcp:22/);
  await look(first, "policy difference");
  await shoot(first, "policy-plan");
  await first.click("text=Put it into force");
  await first.waitForSelector(".note.good");
  await review("{}");
  await first.waitForSelector(".review .note.bad");
  await shoot(first, "policy-danger");
  assert.equal(await first.locator(".review input[name=force]").count(), 1);
  await first.goto(`${server.url}/policy/history`);
  await first.locator("summary:has-text('Put back')").first().click();
  await first.locator(".ask-box button").first().click();
  await first.waitForSelector(".note.good");
  assert.equal(server.json("policy", "show").text, text);

  // Without scripts: in, approve a route, out.
  const plain = await person({ javaScriptEnabled: false });
  const invited = server.json("users", "invite", "--role", "network-admin", "--name", "plain");
  await accept(plain, invited.urls[0], "", password);
  await plain.click("button[type=submit]");
  await plain.click("text=I have kept them");
  await plain.goto(`${server.url}/approvals`);
  await plain.locator("main button:has-text('Approve')").last().click();
  assert.equal(await plain.locator(".note.good").count(), 1);
  await plain.goto(`${server.url}/nodes?q=web&state=offline`);
  assert.ok(await plain.locator("#list tbody tr").count() > 1);
  await plain.click("button[aria-label='Sign out']");
  assert.match(plain.url(), /\/login$/);

  // A form of a foreign page, and one without its token, change nothing.
  const foreign = await first.context().request.post(`${server.url}/logout`, { headers: { origin: "https://evil.example" }, form: { csrf: "x" } });
  assert.equal(foreign.status(), 403);
  const bare = await first.context().request.post(`${server.url}/logout`, { headers: { origin: server.url }, form: {} });
  assert.equal(bare.status(), 403);
  const rebound = await first.context().request.get(`${server.url}/nodes`, { headers: { host: "evil.example" } });
  assert.equal(rebound.status(), 421);

  // The chain of the log, by button.
  await first.goto(`${server.url}/audit`);
  await first.click("text=Verify the chain");
  assert.match(await first.textContent(".note.good"), /chain is whole/);

  // Whoever listened on the way saw no secret of the first run and of signing in.
  const captured = server.captured();
  assert.ok(captured.length > 100_000);
  for (const [what, text] of [["the link", link.urls[0].split("/").pop()], ["the password", password], ["the TOTP secret", secret.replace(/\s/g, "")], ["the cookie", cookies[0].value], ["a recovery code", recovery]]) {
    assert.equal(captured.includes(text), false, `${what} is on the wire`);
    assert.equal(captured.includes(encodeURIComponent(text)), false, `${what} is on the wire`);
  }

  assert.deepEqual(complaints, [], "console errors and CSP violations");
  const seconds = Math.round((Date.now() - began) / 1000);
  console.log(`web: ${screens.length} screens for ${all.length} roles, dark and on a phone; ${checks} looks by axe-core, no serious finding; ${seconds} s`);
  if (process.env.MESHD_REPORT) writeFileSync(process.env.MESHD_REPORT, JSON.stringify({ screens: screens.length, roles: all.length, looks: checks, seconds, quick }));
} catch (error) {
  console.error(server.log());
  console.error(complaints.join("\n"));
  throw error;
} finally {
  await browser.close();
  await server.stop();
}
