// A table for spreadsheets (RFC 4180), with the mark by which Excel knows UTF-8.
const COLUMNS = ["file", "class", "probability", "prediction_set", "abstain", "error"];

function csv(rows) {
  return "\ufeff" + [COLUMNS, ...rows].map(row => row.map(cell).join(",") + "\r\n").join("");
}

// Texts are quoted always: some spreadsheets divide at other signs than commas. What would begin a formula gets
// an apostrophe before it (OWASP, "CSV Injection"): a file's name is a stranger's to choose.
function cell(value) {
  if (typeof value === "number") return String(value);
  const text = /^\s*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(value) ? `'${value}` : value;
  return `"${text.replaceAll('"', '""')}"`;
}

function download(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href));  // when the click has been heard
}
