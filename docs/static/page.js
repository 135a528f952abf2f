// A page opened from a folder may not fetch other pages: the search then lists titles without excerpts.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// Interactive figures: plotly draws them here, with the sliders and frames that they carry.
document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll(".plotly-figure")) {
    const figure = JSON.parse(place.querySelector("script").textContent), layout = figure.layout || {};
    if (layout.width > place.clientWidth) delete layout.width;
    Plotly.newPlot(place, figure.data, layout, { responsive: true, displayModeBar: false, ...figure.config })
      .then(() => figure.frames && Plotly.addFrames(place, figure.frames));
  }
});

// Columns of words are set as words; numbers stay at the right.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll(".cell_output table")) {
    const rows = [...table.rows], number = /^[\s\d.,:±−–+%×e()-]*$/;
    for (let column = 0; column < Math.max(...rows.map(row => row.cells.length)); column++) {
      const cells = rows.map(row => row.cells[column]).filter(Boolean);
      const body = cells.filter(cell => !cell.closest("thead"));
      if (body.some(cell => !number.test(cell.textContent) && cell.textContent !== "nan")) cells.forEach(cell => cell.classList.add("words"));
    }
  }
});
