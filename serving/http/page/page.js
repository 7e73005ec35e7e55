// The page: what is served, which pictures are asked about, with what options.
let model = null;  // what GET model has said

// Pictures are drawn when they come near the window, so that 500 cost no more than those looked at.
const shown = new IntersectionObserver(entries => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    shown.unobserve(target);
    target.row.showThumbnail();
  }
}, { rootMargin: "50%" });

async function loadModel() {
  try {
    model = await call("model");
  } catch (problem) {
    $("gone").hidden = problem.status === 401;
    $("gone").firstElementChild.textContent = problem.message;
    if (problem.status === 401) wantToken();
    return;
  }
  $("gone").hidden = $("key").hidden = true;
  $("name").textContent = model.name;
  document.title = `${model.name} · Snapensemble`;
  $("about").textContent = `${plural(model.members.length, "member")}, ` +
    `${plural(model.classes.length, "class", "classes")}, ` +
    `right about ${percent(model.val.accuracy)} of the validation pictures`;
  const sets = (model.mode === "cascade" ? model.cascade_point : model.calibration)?.sets ?? [];
  offer($("sets"), sets.map(set => set.coverage), share => `${Math.round(100 * share)} times in 100`, true);
  offer($("risk"), model.abstain ?? [], percent);
}

// Fill a choice with what the bundle can do; where that is nothing the choice is not there. One that is `on` begins
// with the first value.
function offer(label, values, words, on = false) {
  const select = label.querySelector("select"), isNew = select.options.length === 1, kept = select.value;
  const distinct = [...new Set(values)].sort((one, other) => one - other);
  select.replaceChildren(select.options[0], ...distinct.map(value => new Option(words(value), value)));
  select.value = isNew && on ? distinct[0] : kept;
  if (select.selectedIndex < 0) select.value = "";
  label.hidden = !distinct.length;
}

// Another model may have come since; then the page is about that one.
async function sameModel({ name, version }) {
  if (model?.name !== name || model?.version !== version) await loadModel();
}

function wantToken() {
  if (!$("key").hidden) return;
  $("key").hidden = false;
  if (token) $("key").querySelector("label").textContent = "The server does not accept that token; use another";
  $("token").focus();
}

const rows = () => [...$("list").children].map(element => element.row);

function add(files) {
  const added = files.map(({ file, name }) => new Row(file, name));
  $("list").append(...added.map(row => row.element));
  for (const row of added) {
    shown.observe(row.element);
    row.ask();
  }
  count();
}

function count() {
  const all = rows(), answered = all.filter(row => row.answer && !row.problem).length;
  const failed = all.filter(row => row.problem).length;
  $("answers").hidden = !all.length;
  $("count").textContent = `${answered} of ${plural(all.length, "picture")} answered` + (failed ? `, ${failed} not` : "");
  $("again").hidden = failed < 2;
  $("csv").disabled = !(answered + failed);
}

const chosen = list => [...list].map(file => ({ file, name: file.webkitRelativePath || file.name }));

// The files of a drop, those in folders too. Entries must be asked for before the event is over.
async function dropped(data) {
  const entries = [...data.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(data.files);
  return (await Promise.all(entries.map(filesOf))).flat();
}

async function filesOf(entry) {
  if (entry.name.startsWith(".")) return [];  // .DS_Store and its like
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, name: entry.fullPath.replace(/^\//, "") }];
  }
  const reader = entry.createReader(), found = [];
  for (let more; more = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)), more.length;) {
    found.push(...more);  // in parts of 100
  }
  return (await Promise.all(found.map(filesOf))).flat();
}

for (const input of [$("files"), $("camera")]) {
  input.onchange = () => {
    add(chosen(input.files));
    input.value = "";  // the same file may be chosen again
  };
}
document.ondragover = event => { event.preventDefault(); document.body.classList.add("over"); };
document.ondragleave = event => { if (!event.relatedTarget) document.body.classList.remove("over"); };
document.ondrop = async event => {
  event.preventDefault();
  document.body.classList.remove("over");
  add(await dropped(event.dataTransfer));
};
document.onpaste = event => add(chosen(event.clipboardData.files));
for (const select of [$("coverage"), $("abstain")]) {
  select.onchange = () => rows().forEach(row => row.ask());
}
$("again").onclick = () => rows().filter(row => row.problem).forEach(row => row.ask());
$("clear").onclick = () => rows().forEach(row => row.remove());
$("csv").onclick = () => download(csv(rows().map(row => row.cells).filter(Boolean)), "predictions.csv");
$("gone").querySelector("button").onclick = loadModel;
$("options").onsubmit = event => event.preventDefault();
$("key").onsubmit = async event => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  $("key").hidden = true;
  await loadModel();
  rows().filter(row => row.problem?.status === 401).forEach(row => row.ask());
};

for (const link of document.querySelectorAll("footer a")) link.href = BASE + link.getAttribute("href");
$("curl").textContent =
  `curl -H 'Content-Type: image/png' --data-binary @picture.png ${location.origin}${BASE}predict`;
loadModel();
