// Draws pictures small, one at a time: a decoded photograph takes 50 MB, its thumbnail 0.1 MB.
const SHARPNESS = Math.min(2, window.devicePixelRatio);
let drawing = Promise.resolve();

function drawn(task) {
  const result = drawing.then(task);
  drawing = result.catch(() => {});
  return result;
}

// A canvas with the picture, at most `side` wide and high, in CSS pixels; null if the browser cannot read it.
function thumbnail(file, side) {
  return drawn(async () => {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      return null;
    }
    const canvas = fitted(bitmap.width, bitmap.height, side);
    const pen = canvas.getContext("2d");
    // Small pictures are enlarged; blurred they would look like something the network never saw.
    pen.imageSmoothingEnabled = bitmap.width > canvas.width;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    canvas.picture = { width: bitmap.width, height: bitmap.height };
    bitmap.close();
    return canvas;
  });
}

function fitted(width, height, side) {
  const canvas = document.createElement("canvas");
  const scale = side / Math.max(width, height);
  canvas.style.width = `${Math.max(1, width * scale)}px`;
  canvas.width = Math.max(1, Math.round(SHARPNESS * width * scale));
  canvas.height = Math.max(1, Math.round(SHARPNESS * height * scale));
  return canvas;
}

// The rectangles [x, y, width, height] of the picture and of the network's frame that show the same.
function seen(picture, frame) {
  const x = frame.width / picture.width, y = frame.height / picture.height;
  const centred = (outer, width, height) => [(outer.width - width) / 2, (outer.height - height) / 2, width, height];
  const whole = outer => centred(outer, outer.width, outer.height);
  if (frame.fit === "stretch") return [whole(picture), whole(frame)];
  if (frame.fit === "pad") {
    const scale = Math.min(x, y);
    return [whole(picture), centred(frame, picture.width * scale, picture.height * scale)];
  }
  const scale = Math.max(x, y);  // cover
  return [centred(picture, frame.width / scale, frame.height / scale), whole(frame)];
}

const FOR = [255, 90, 0], AGAINST = [40, 90, 255];

// A canvas to lie over the one of the picture. `map` has a grey PNG in base64, black for `low` and white for
// `high`, in logits. What spoke for the class is warm, what spoke against it blue, what the network did not see
// dark. Where all of it spoke for the class, or all against it, the least of it is as if it were nothing.
async function overlay(map, frame, canvas) {
  const bytes = Uint8Array.from(atob(map.png), letter => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const heat = document.createElement("canvas");
  heat.width = bitmap.width; heat.height = bitmap.height;
  const heatPen = heat.getContext("2d");
  heatPen.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = heatPen.getImageData(0, 0, heat.width, heat.height);
  const nothing = Math.min(Math.max(0, map.low), map.high);
  const most = Math.max(map.high - nothing, nothing - map.low) || 1;
  for (let at = 0; at < pixels.data.length; at += 4) {
    const value = (map.low + (map.high - map.low) * pixels.data[at] / 255 - nothing) / most;
    pixels.data.set([...(value < 0 ? AGAINST : FOR), 255 * Math.abs(value)], at);
  }
  heatPen.putImageData(pixels, 0, 0);

  const over = document.createElement("canvas");
  over.width = canvas.width; over.height = canvas.height;
  const pen = over.getContext("2d"), scale = canvas.width / canvas.picture.width;
  const [picture, part] = seen(canvas.picture, frame);
  const place = picture.map(length => length * scale);
  pen.fillStyle = "#000a";
  pen.fillRect(0, 0, over.width, over.height);
  pen.clearRect(...place);
  const shrink = heat.width / frame.width;  // 1 as agreed; any other size still lies where it belongs
  pen.drawImage(heat, ...part.map(length => length * shrink), ...place);
  return over;
}
