// Numbers and times for people.

const STEPS = ["", "k", "M", "G", "T", "P"];

/** A number with three digits and a unit's prefix: 1234 is "1.23 k". */
export function short(number) {
  let step = 0;
  while (Math.abs(number) >= 999.5 && step < STEPS.length - 1) {
    number /= 1000;
    step += 1;
  }
  const digits = step === 0 && Number.isInteger(number) ? 0 : Math.abs(number) < 9.995 ? 2 : Math.abs(number) < 99.95 ? 1 : 0;
  return number.toFixed(digits) + (STEPS[step] ? " " + STEPS[step] : "");
}

/** Seconds as the two greatest of days, hours, minutes and seconds. */
export function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = Math.max(0, parts.findIndex(([size]) => seconds >= size));
  if (seconds < 1) return "0 s";
  return parts.slice(first, first + 2)
    .map(([size, name], i) => [Math.floor((i === 0 ? seconds : seconds % parts[first][0]) / size), name])
    .filter(([number]) => number > 0)
    .map(([number, name]) => `${number} ${name}`)
    .join(" ");
}

/** A time of the director in the reader's time zone. */
export function time(milliseconds) {
  const date = new Date(milliseconds);
  const two = (number) => String(number).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ` +
    `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
