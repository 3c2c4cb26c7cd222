// node pdf.mjs ROOT CHROMIUM ADDRESS FOLDER PAGE... : each page as FOLDER/book-ode-adjoint.pdf.
// Links to other pages lead to ADDRESS, where the site is published.
import fs from "node:fs";
import path from "node:path";
import { open, visit } from "./site.mjs";

const [root, chromium, address, folder, ...names] = process.argv.slice(2);
const site = await open(root, chromium);
const written = {};
fs.mkdirSync(folder, { recursive: true });
for (const name of names) {
  const { page, context } = await visit(site, "light", name);
  await page.evaluate(
    ([base, published]) => {
      for (const link of document.querySelectorAll("a[href]"))
        if (link.href.startsWith(base) && !link.getAttribute("href").startsWith("#"))
          link.href = `${published}/${link.href.slice(base.length)}`;
      for (const image of document.images) image.loading = "eager";
      return Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
    },
    [site.base, address],
  );
  const file = path.join(folder, `${name.replace(/\.html$/, "").replaceAll("/", "-")}.pdf`);
  await page.pdf({
    path: file,
    format: "A4",
    scale: 0.8,
    printBackground: true,
    margin: { top: "18mm", bottom: "18mm", left: "16mm", right: "16mm" },
    displayHeaderFooter: true,
    headerTemplate: "<span></span>",
    footerTemplate:
      '<div style="font-size:8px;width:100%;text-align:center"><span class="pageNumber"></span></div>',
  });
  written[name] = fs.statSync(file).size;
  await context.close();
}
await site.close();
console.log(JSON.stringify(written));
