// One picture of the list: what is asked about it, and what came back.
const TOP = 5;  // classes
const LEAST = 0.005;  // probability of a class that is shown behind the likeliest
const NAMED = 12;  // classes of a prediction set; the others are counted
const THUMBNAIL = 96, STAGE = 320;  // CSS pixels

const percent = fraction => `${(100 * fraction).toFixed(1)}\u00a0%`;
const plural = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;

class Row {
  turn = 0;  // of the newest question; answers to older ones count for nothing
  answer = null;
  problem = null;
  asking = null;  // ends the question under way
  maps = null;

  constructor(file, name) {
    Object.assign(this, { file, name });
    this.element = $("row").content.firstElementChild.cloneNode(true);
    this.element.row = this;
    this.find(".file span").textContent = name;
    this.find(".remove").ariaLabel = `Remove ${name}`;
    this.find(".remove").onclick = () => this.remove();
    this.find(".problem button").onclick = () => this.ask();
    this.find(".why").onclick = () => this.toggleWhy();
    this.find("input").oninput = event => this.fade(event.target.value / 100);
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  remove() {
    this.turn++;
    this.asking?.abort();
    this.element.remove();
    shown.unobserve(this.element);
    count();
  }

  async showThumbnail() {
    const canvas = await thumbnail(this.file, Math.min(THUMBNAIL, this.find(".thumb").clientWidth));
    this.label(canvas, "");
    this.find(".thumb").replaceChildren(canvas ?? "no preview");
  }

  label(canvas, what) {
    canvas?.setAttribute("role", "img");
    if (canvas) canvas.ariaLabel = what + this.name;
  }

  async ask() {
    const turn = ++this.turn;
    this.asking?.abort();
    this.asking = new AbortController();
    this.find(".problem").hidden = true;
    this.element.ariaBusy = "true";
    const tell = text => { if (turn === this.turn) this.find(".state").textContent = text; };
    let answer = null, problem = null;
    try {
      const body = await predict(this.file, query(), this.asking.signal, tell);
      if (turn !== this.turn) return;
      await sameModel(body.model);
      answer = kept(body.predictions[0]);
    } catch (error) {
      problem = error;
    }
    if (turn !== this.turn) return;
    Object.assign(this, { answer, problem, asking: null });
    if (problem?.status === 401) wantToken();
    this.show();
    count();
  }

  show() {
    const { answer, problem } = this;
    this.element.ariaBusy = "false";
    this.find(".state").textContent = "";
    this.find(".problem").hidden = !problem;
    this.find(".problem p").textContent = problem?.message ?? "";
    this.find(".answer").hidden = !answer;
    if (!answer) return;
    const set = answer.set?.classes ?? (answer.abstain ? [] : [answer.class]);
    this.find(".unsure").hidden = !answer.abstain;
    const top = answer.top.filter((each, k) => !k || each.probability >= LEAST || set.includes(each.class));
    this.find(".top").replaceChildren(...top.map(each => bar(each, set.includes(each.class))));
    this.find(".set").hidden = !answer.set;
    if (answer.set) this.find(".set").textContent = setSentence(answer.set);
    this.find(".why").hidden = !model?.explain;
    this.showMembers();
  }

  showMembers() {
    const { answer } = this, all = model?.members.length ?? answer.members.length;
    this.find(".members").hidden = all < 2;
    const alike = answer.members.filter(member => member.class === answer.class).length;
    this.find("summary").textContent =
      `${alike} of ${plural(answer.members.length, "member")} say ${answer.class}` +
      (answer.members.length < all ? `; ${all} were there to ask` : "");
    const table = this.find(".members table");
    table.replaceChildren();
    table.className = new Set(answer.members.map(member => member.weight)).size > 1 ? "weighted" : "";
    const head = table.createTHead().insertRow();
    for (const title of ["member", "says", "with", "weight"]) {
      head.append(Object.assign(document.createElement("th"), { textContent: title, scope: "col" }));
    }
    const body = table.createTBody();
    for (const member of answer.members) {
      const row = body.insertRow();
      row.className = member.class === answer.class ? "" : "differs";
      for (const text of [member.name, member.class, percent(member.probability), percent(member.weight)]) {
        row.insertCell().textContent = text;
      }
    }
    const { entropy_nats, disagreement_nats } = answer.uncertainty;
    this.find(".members .quiet").textContent =
      `Uncertainty ${entropy_nats.toFixed(3)} nats, of which ${disagreement_nats.toFixed(3)} because members ` +
      `differ; 0 is certain${model ? `, ${Math.log(model.classes.length).toFixed(2)} knows nothing` : ""}.`;
  }

  async toggleWhy() {
    const figure = this.find("figure"), button = this.find(".why");
    figure.hidden = !figure.hidden;
    button.ariaExpanded = String(!figure.hidden);
    button.textContent = figure.hidden ? "Why?" : "Hide why";
    if (figure.hidden || this.maps) return;
    const tell = text => { this.find("figure .state").textContent = text; };
    button.disabled = true;
    try {
      const signal = new AbortController().signal;
      const [body, canvas] = await Promise.all([
        predict(this.file, `${query()}&explain=true`, signal, tell), thumbnail(this.file, STAGE)]);
      const maps = body.predictions[0].explanation;
      if (!maps?.length) throw new Problem("The server did not say why.");
      await this.showMaps(maps, canvas ?? blank(model.image));
      this.maps = maps;
      tell("");
    } catch (error) {
      tell(error.message);
    }
    button.disabled = false;
  }

  async showMaps(maps, canvas) {
    this.label(canvas, "what counted in ");
    const choices = maps.map(map => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: map.class });
      button.onclick = () => choose(map, button);
      return button;
    });
    const choose = async (map, button) => {
      for (const each of choices) each.ariaPressed = String(each === button);
      const over = await overlay(map, model.image, canvas);
      over.ariaHidden = "true";
      this.find(".stage").replaceChildren(canvas, over);
      this.fade(this.find("input").value / 100);
      this.find("figure .quiet").textContent =
        `Warm parts spoke for ${map.class}, blue ones against it. Dark parts were not seen.`;
    };
    this.find(".classes").replaceChildren(...choices);
    this.find(".classes").hidden = maps.length < 2;
    await choose(maps[0], choices[0]);
  }

  fade(opacity) {
    const over = this.find(".stage canvas + canvas");
    if (over) over.style.opacity = opacity;
  }

  // What `csv` wants; null while there is nothing to tell.
  get cells() {
    if (this.problem) return [this.name, "", "", "", "", this.problem.message];
    if (!this.answer) return null;
    const { answer } = this;
    const set = answer.set?.classes.join("; ") ?? "";
    return [this.name, answer.class, answer.probability, set, String(answer.abstain ?? ""), ""];
  }
}

// The query of a prediction, by what is chosen on the page.
function query() {
  const options = { top: TOP, probabilities: false, members: true };
  if ($("coverage").value) options.coverage = $("coverage").value;
  if ($("abstain").value) options.abstain = $("abstain").value;
  return new URLSearchParams(options);
}

// What is kept of a prediction: of a member its likeliest class, not a thousand of them.
function kept(said) {
  const { top, uncertainty, abstain, prediction_set: set } = said;
  const members = (said.members ?? []).map(({ name, weight, probabilities }) => {
    const probability = Math.max(...probabilities);
    return { name, weight, probability, class: model?.classes[probabilities.indexOf(probability)] };
  });
  return { class: said.class, probability: said.probability, top, uncertainty, abstain, set, members };
}

function bar({ class: name, probability }, isIn) {
  const row = document.createElement("tr");
  row.className = isIn ? "in" : "";
  row.insertCell().textContent = name;
  const part = row.insertCell().appendChild(document.createElement("div"));
  part.className = "bar";
  part.style.width = `${100 * probability}%`;
  row.insertCell().textContent = percent(probability);
  return row;
}

function setSentence({ coverage, classes }) {
  const rest = classes.length - NAMED;
  const names = classes.slice(0, NAMED).join(", ") + (rest > 0 ? ` and ${rest} more` : "");
  return `${Math.round(100 * coverage)}\u00a0% set: ${names}`;
}

// The network's frame in grey, where the browser cannot show the picture.
function blank({ width, height }) {
  const canvas = fitted(width, height, STAGE), pen = canvas.getContext("2d");
  pen.fillStyle = "#888";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  canvas.picture = { width, height };
  return canvas;
}
