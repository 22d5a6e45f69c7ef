/**
 * Writes reports, or, as `worker compensate`, removes what reports left behind.
 *
 * SIGTERM: what runs is finished, nothing more is claimed. A second one, or SIGINT: what runs is stopped and given back.
 */

import { emit } from "./events.js";
import { REMOVE_DIR, undoReport, writeReport } from "./report.js";
import { connect } from "./sagad/lease.js";
import { Worker } from "./sagad/worker.js";
import { main, readSettings, SettingError } from "./settings.js";

await main(async () => {
  const [order, ...more] = process.argv.slice(2);
  if ((order ?? "compensate") !== "compensate" || more.length > 0) throw new SettingError("usage: worker [compensate]");
  const settings = readSettings();
  try {
    connect(settings.server).close();
  } catch (error) {
    throw new SettingError(`SAGAD_SERVER: ${(error as Error).message}`);
  }
  const does = order === "compensate" ? { [REMOVE_DIR]: undoReport } : writeReport;
  const worker = new Worker({ ...settings, does });

  let told = false;
  process.on("SIGTERM", () => {
    if (told) worker.end();
    told = true;
    worker.drain();
  });
  process.on("SIGINT", () => worker.end());
  await worker.run();
  emit("drained");
});
