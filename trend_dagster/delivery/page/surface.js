"use strict";
// A surface that turns. Plotly turns fine meshes haltingly where there is no graphics card; this
// does so fluently (python -m benchmarks.page).

// host: the element to draw in. parts: for each hemisphere its points (x, y, z in mm), triangles,
// and how dark each vertex is, from 0 to 255. Returns null where the browser has no WebGL.
const surfaceView = (host, parts) => {
  const canvas = document.createElement("canvas");
  const label = document.createElement("div");
  canvas.className = "surface";
  label.className = "hover";
  label.hidden = true;
  // Smooth edges are drawn when it stands still, from four times as many pixels.
  const gl = canvas.getContext("webgl2", { antialias: false });
  if (!gl) return null;
  host.append(canvas, label);

  const cross = (a, b) => [
    a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0],
  ];
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const unit = (a) => a.map((v) => v / (Math.hypot(...a) || 1));
  const at = (points, i) => [points[3 * i], points[3 * i + 1], points[3 * i + 2]];

  // Mean direction of the triangles around each vertex, larger ones more.
  const normalsOf = ({ points, triangles }) => {
    const sums = new Float32Array(points.length);
    for (let t = 0; t < triangles.length; t += 3) {
      const [a, b, c] = [0, 1, 2].map((k) => at(points, triangles[t + k]));
      const across = cross(b.map((v, k) => v - a[k]), c.map((v, k) => v - a[k]));
      for (let k = 0; k < 3; k += 1) {
        for (let axis = 0; axis < 3; axis += 1) sums[3 * triangles[t + k] + axis] += across[axis];
      }
    }
    return sums;
  };
  // Six times the volume that the triangles enclose: above 0 where they are seen from outside
  // against the clock, and about 0 of a sheet, whose triangles are seen from either side.
  const volumeOf = ({ points, triangles }) => {
    let sum = 0;
    for (let t = 0; t < triangles.length; t += 3) {
      const [a, b, c] = [0, 1, 2].map((k) => at(points, triangles[t + k]).map((v, j) => v - points[j]));
      sum += dot(a, cross(b, c));
    }
    return sum;
  };
  const compiled = (kind, source) => {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    return shader;
  };
  const filled = (target, data) => {
    const buffer = gl.createBuffer();
    gl.bindBuffer(target, buffer);
    gl.bufferData(target, data, gl.STATIC_DRAW);
    return buffer;
  };
  let places, drawn;
  const prepare = () => {
    const program = gl.createProgram();
    gl.attachShader(program, compiled(gl.VERTEX_SHADER, `#version 300 es
      in vec3 point; in vec3 normal; in vec3 colour;
      uniform mat3 turned; uniform vec3 middle; uniform vec3 scale;
      out vec3 shade;
      void main() {
        // Light comes from where one looks from; either side of a triangle may face it.
        shade = colour * (0.55 + 0.45 * abs((turned * normalize(normal)).z));
        gl_Position = vec4(turned * (point - middle) * scale, 1.0);
      }`));
    gl.attachShader(program, compiled(gl.FRAGMENT_SHADER, `#version 300 es
      precision mediump float;
      in vec3 shade; out vec4 pixel;
      void main() { pixel = vec4(shade, 1.0); }`));
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    places = Object.fromEntries(
      ["turned", "middle", "scale"].map((name) => [name, gl.getUniformLocation(program, name)]),
    );
    drawn = parts.map((part) => {
      const shape = gl.createVertexArray();
      gl.bindVertexArray(shape);
      const given = (name, data, kind, normalized) => {
        const buffer = filled(gl.ARRAY_BUFFER, data);
        const place = gl.getAttribLocation(program, name);
        gl.enableVertexAttribArray(place);
        gl.vertexAttribPointer(place, 3, kind, normalized, 0, 0);
        return buffer;
      };
      given("point", part.points, gl.FLOAT, false);
      given("normal", normalsOf(part), gl.FLOAT, false);
      const colours = given("colour", part.colours, gl.UNSIGNED_BYTE, true);
      filled(gl.ELEMENT_ARRAY_BUFFER, Uint32Array.from(part.triangles));
      return { shape, colours, count: part.triangles.length, volume: volumeOf(part) };
    });
  };
  for (const part of parts) {
    part.colours = new Uint8Array(part.points.length).fill(199);
    part.names = [];
  }

  // Rows of the rotation: what points right, up, and towards the viewer.
  let turned = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
  let shown = parts.map(() => true);
  let middle = [0, 0, 0], reach = 1, zoom = 1, size = [1, 1];
  const visible = () => parts.filter((_, i) => shown[i]);
  const fit = () => {
    const bounds = (axis) => {
      let low = Infinity, high = -Infinity;
      for (const { points } of visible()) {
        for (let i = 0; i < points.length; i += 3) {
          const v = axis[0] * points[i] + axis[1] * points[i + 1] + axis[2] * points[i + 2];
          if (v < low) low = v;
          if (v > high) high = v;
        }
      }
      return [low, high];
    };
    const ranges = turned.map(bounds);
    middle = [0, 1, 2].map((axis) =>
      ranges.reduce((sum, [low, high], i) => sum + turned[i][axis] * (low + high) / 2, 0));
    size = ranges.map(([low, high]) => high - low || 1);
    reach = Math.hypot(...size);
    zoom = 1;
  };
  // Pixels for each mm.
  const pixels = () =>
    0.9 * zoom * Math.min(canvas.clientWidth / size[0], canvas.clientHeight / size[1]);
  const draw = (finely) => {
    const ratio = finely ? 2 * Math.min(window.devicePixelRatio, 2) : window.devicePixelRatio;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((v) => Math.round(v * ratio));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    // WebGL takes columns one after the other.
    gl.uniformMatrix3fv(places.turned, false, [0, 1, 2].flatMap((k) => turned.map((row) => row[k])));
    gl.uniform3fv(places.middle, middle);
    gl.uniform3f(
      places.scale,
      2 * pixels() / canvas.clientWidth, 2 * pixels() / canvas.clientHeight, -1 / reach,
    );
    drawn.forEach(({ shape, count, volume }, i) => {
      if (!shown[i]) return;
      // The far side of a closed surface is never seen.
      const closed = Math.abs(volume) > 1e-2 * reach ** 3;
      if (closed) gl.enable(gl.CULL_FACE); else gl.disable(gl.CULL_FACE);
      gl.frontFace(volume > 0 ? gl.CCW : gl.CW);
      gl.bindVertexArray(shape);
      gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_INT, 0);
    });
  };
  let waiting = false, rest;
  const redraw = (finely = false) => {
    clearTimeout(rest);
    if (!finely) rest = setTimeout(() => redraw(true), 150);
    if (waiting && !finely) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (!gl.isContextLost() && canvas.clientWidth) draw(finely);
    });
  };

  // By angles about the axes of the screen.
  const turn = (sideways, upward) => {
    const [right, up, towards] = turned;
    const mix = (a, b, angle) => a.map((v, k) => v * Math.cos(angle) + b[k] * Math.sin(angle));
    const [side, front] = [mix(right, towards, sideways), mix(towards, right, -sideways)];
    turned = [side, mix(up, front, upward), mix(front, up, -upward)].map(unit);
    label.hidden = true;
    redraw();
  };
  let from = null;
  canvas.addEventListener("pointerdown", (event) => {
    from = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => { from = null; });
  }
  canvas.addEventListener("pointermove", (event) => {
    if (from) {
      const [x, y] = from;
      from = [event.clientX, event.clientY];
      turn((from[0] - x) / 150, (y - from[1]) / 150);
    } else {
      point(event);
    }
  });
  canvas.addEventListener("pointerleave", () => { label.hidden = true; });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom = Math.min(8, Math.max(0.5, zoom * Math.exp(-event.deltaY / 800)));
    redraw();
  }, { passive: false });
  canvas.addEventListener("dblclick", () => { fit(); redraw(); });
  host.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-0.2, 0], ArrowRight: [0.2, 0], ArrowUp: [0, 0.2], ArrowDown: [0, -0.2] };
    if (!steps[event.key]) return;
    event.preventDefault();
    turn(...steps[event.key]);
  });

  // How far vertices are apart, in mm, so that one of them is near wherever the surface is.
  const apart = parts.map(({ points, triangles }) => {
    const [a, b] = [0, 1].map((k) => at(points, triangles[k]));
    return Math.hypot(...a.map((v, k) => v - b[k]));
  });
  // The name of the nearest vertex on the side that one sees.
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = pixels(), [right, up, towards] = turned;
    const x = (event.clientX - box.x - box.width / 2) / scale + dot(right, middle);
    const y = (box.height / 2 - (event.clientY - box.y)) / scale + dot(up, middle);
    const radius = Math.max(5 / scale, ...apart), found = [];
    for (const { points, names } of visible()) {
      for (let i = 0; i < points.length; i += 3) {
        const dx = right[0] * points[i] + right[1] * points[i + 1] + right[2] * points[i + 2] - x;
        if (Math.abs(dx) > radius) continue;
        const dy = up[0] * points[i] + up[1] * points[i + 1] + up[2] * points[i + 2] - y;
        const far = Math.hypot(dx, dy);
        if (far < radius) found.push([far, dot(towards, at(points, i / 3)), names[i / 3]]);
      }
    }
    const front = Math.max(...found.map(([, depth]) => depth)) - 2 * radius;
    const [nearest] = found.filter(([, depth]) => depth >= front).sort(([a], [b]) => a - b);
    label.hidden = !nearest;
    label.textContent = nearest ? nearest[2] : "";
    label.style.left = `${Math.min(event.clientX - box.x + 12, box.width - 90)}px`;
    label.style.top = `${event.clientY - box.y + 12}px`;
  };

  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => { prepare(); redraw(); });
  new ResizeObserver(() => redraw()).observe(host);
  prepare();
  return {
    // For each part a colour (three numbers from 0 to 255) and a name of each vertex.
    paint(colours, names) {
      parts.forEach((part, i) => {
        part.colours.set(colours[i]);
        part.names = names[i];
        gl.bindBuffer(gl.ARRAY_BUFFER, drawn[i].colours);
        gl.bufferData(gl.ARRAY_BUFFER, part.colours, gl.STATIC_DRAW);
      });
      redraw();
    },
    // From where one looks, what is up there, and which parts are seen.
    look(eye, up, sides) {
      const towards = unit(eye), right = unit(cross(up, towards));
      turned = [right, cross(towards, right), towards];
      shown = sides;
      fit();
      redraw();
    },
  };
};
