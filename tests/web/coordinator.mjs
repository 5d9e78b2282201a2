// Runs a real coordinator for the tests: its own state directory, loopback, ports that the system chose.
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createHmac } from "node:crypto";

const target = process.env.CARGO_TARGET_DIR ?? join(process.env.HOME, ".cache/meshd/target");
export const program = join(target, "debug/meshd-coordinator");

async function freePort() {
  return await new Promise((done, failed) => {
    const server = createServer();
    server.on("error", failed);
    server.listen(0, "127.0.0.1", () => { const { port } = server.address(); server.close(() => done(port)); });
  });
}

/** A running coordinator; with `seed`, of a mesh with so many nodes. */
export async function start({ seed = 0 } = {}) {
  const dir = mkdtempSync(join(tmpdir(), "meshd-web-"));
  const socket = join(dir, "api.sock");
  const port = await freePort();
  if (seed > 0) execFileSync(join(target, "debug/examples/seed"), [join(dir, "state"), String(seed)], { timeout: 1_800_000 });
  // The browser goes through a listener that keeps every byte, as somebody on the way could.
  const wire = [];
  const tap = createServer((near) => {
    const far = connect(port, "127.0.0.1");
    for (const [from, to] of [[near, far], [far, near]]) {
      from.on("data", (data) => { wire.push(data); to.write(data); });
      from.on("end", () => to.end());
      from.on("error", () => to.destroy());
    }
  });
  const outside = await new Promise((done) => tap.listen(0, "127.0.0.1", () => done(tap.address().port)));
  const args = ["serve", "--json", "--socket", socket, "--state-dir", join(dir, "state"), "--listen", `127.0.0.1:${port}`,
    "--public", `127.0.0.1:${outside}`, "--no-relay", "--prefix", "100.71.0.0/16"];
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, MESHD_LOG: "warn" } });
  let log = "";
  child.stderr.on("data", (data) => { log += data; });
  await new Promise((done, failed) => {
    const limit = setTimeout(() => failed(new Error(`the coordinator is not ready:\n${log}`)), 60_000);
    child.stdout.once("data", () => { clearTimeout(limit); done(); });
    child.once("exit", (code) => { clearTimeout(limit); failed(new Error(`the coordinator ended with ${code}:\n${log}`)); });
  });
  const run = (...words) => execFileSync(program, ["--socket", socket, "--json", ...words], { encoding: "utf8", timeout: 120_000 });
  return {
    url: `https://127.0.0.1:${outside}`, socket, captured: () => Buffer.concat(wire), run, json: (...words) => JSON.parse(run(...words)), log: () => log,
    stop: async () => {
      const gone = new Promise((done) => child.once("exit", done));
      child.kill("SIGTERM");
      const late = setTimeout(() => child.kill("SIGKILL"), 30_000);
      await gone;
      clearTimeout(late);
      tap.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** The code of RFC 6238 for a secret in base32, `ahead` steps from now. */
export function totp(secret, ahead = 0) {
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  let bits = "";
  for (const letter of secret.replace(/\s/g, "")) bits += letters.indexOf(letter).toString(2).padStart(5, "0");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + ahead));
  const tag = createHmac("sha1", key).update(step).digest();
  const offset = tag[19] & 15;
  return String((tag.readUInt32BE(offset) & 0x7fffffff) % 1_000_000).padStart(6, "0");
}
