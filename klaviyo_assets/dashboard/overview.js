// Draws the canvases of the page. Everything else is HTML, and there without a script.
(() => {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 560px)");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

  const datasets = {
    stacked: (series) => ({
      label: series.name,
      data: series.values,
      backgroundColor: color(series.color),
      barPercentage: 1,
      categoryPercentage: 0.82,
    }),
    lines: (series) => ({
      label: series.name,
      data: series.values,
      borderColor: color(series.color),
      backgroundColor: color(series.color),
      borderWidth: 2,
      pointRadius: 0,
      pointHitRadius: 12,
      cubicInterpolationMode: "monotone",
    }),
  };

  const options = (kind, drawing) => ({
    animation: false,
    maintainAspectRatio: false,
    interaction: { mode: "index", intersect: false },
    plugins: {
      legend: { display: false },
      tooltip: {
        callbacks: {
          label: (item) => `${item.dataset.label}: ${number.format(item.raw)} ${drawing.unit}`,
          footer: (items) =>
            kind === "stacked"
              ? `Together: ${number.format(items.reduce((sum, item) => sum + item.raw, 0))} ${drawing.unit}`
              : "",
        },
      },
    },
    scales: {
      x: {
        stacked: kind === "stacked",
        border: { display: false },
        grid: { display: false },
        ticks: {
          color: color("soft"),
          autoSkip: true,
          maxTicksLimit: narrow.matches ? 4 : 9,
          maxRotation: 0,
          // The year is in the period above, and in the tooltip.
          callback(value) { return this.getLabelForValue(value).replace(/ \d{4}$/, ""); },
        },
      },
      y: {
        stacked: kind === "stacked",
        beginAtZero: true,
        border: { display: false },
        grid: { color: color("grid") },
        title: { display: true, text: drawing.unit, color: color("soft") },
        ticks: { color: color("soft"), maxTicksLimit: 6, callback: (value) => short.format(value) },
      },
    },
  });

  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  let charts = [];
  const draw = () => {
    charts.forEach((chart) => chart.destroy());
    charts = [...document.querySelectorAll("canvas[data-kind]")].map((canvas) => {
      const { kind } = canvas.dataset;
      const drawing = JSON.parse(canvas.dataset.drawing);
      return new Chart(canvas, {
        type: kind === "stacked" ? "bar" : "line",
        data: { labels: drawing.labels, datasets: drawing.series.map(datasets[kind]) },
        options: options(kind, drawing),
      });
    });
  };
  draw();
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
})();
