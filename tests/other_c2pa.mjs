// What TrustNXT's c2pa-ts, an implementation of C2PA that shares no code with ours, says about MP4 files: a line for each.
import * as fs from "node:fs/promises";
import { BMFF } from "@trustnxt/c2pa-ts/asset";
import { SuperBox } from "@trustnxt/c2pa-ts/jumbf";
import { ManifestStore, ValidationResult } from "@trustnxt/c2pa-ts/manifest";

BMFF.canReadBrands.add("isom"); // it reads all of ISO's media format, but is made for pictures

for (const name of process.argv.slice(2)) {
  const asset = new BMFF(await fs.readFile(name));
  const store = asset.getManifestJUMBF();
  if (!store) {
    console.log("unsigned");
    continue;
  }
  let result;
  try {
    result = await ManifestStore.read(SuperBox.fromBuffer(store)).validate(asset);
  } catch (error) {
    result = ValidationResult.fromError(error);
  }
  const failures = result.statusEntries.filter((entry) => !entry.success).map((entry) => entry.code);
  console.log(result.isValid ? "valid" : `invalid: ${failures.join(", ")}`);
}
