// Keeps a page fresh: takes the parts that changed, and says when nothing comes any more. The page
// is whole without it.
"use strict";
(() => {
  const page = document.body.dataset.page;
  const fresh = document.getElementById("fresh");
  if (!page || !window.EventSource) return;
  const take = (html) => {
    const now = new DOMParser().parseFromString(html, "text/html");
    for (const part of now.querySelectorAll("section[id]")) {
      const old = document.getElementById(part.id);
      if (!old) { location.reload(); return; }
      old.className = part.className;
      if (old.innerHTML === part.innerHTML) continue;
      // Who is in it with the keyboard, or marks text, is not disturbed: it comes with a later one.
      if (old.contains(document.activeElement)) continue;
      const words = part.querySelector("#sentence"), said = old.querySelector("#sentence");
      if (words && said) { said.replaceChildren(...words.childNodes); continue; } // a reader says it
      old.replaceChildren(...part.childNodes);
    }
    for (const old of document.querySelectorAll("main section[id]")) {
      if (!now.getElementById(old.id)) old.replaceChildren();
    }
  };
  let last = "";
  const source = new EventSource("events?page=" + page);
  const say = (text, lost) => { fresh.textContent = text; fresh.className = lost ? "bad" : ""; };
  source.onopen = () => say("Kept fresh.", false);
  source.onmessage = (event) => {
    last = JSON.parse(event.data);
    take(last);
    say("Kept fresh. Last change " + new Date().toISOString().slice(11, 19) + " UTC.", false);
  };
  source.onerror = () => say("✗ Not fresh any more: the connection is gone. Trying again.", true);
  document.addEventListener("focusout", () => setTimeout(() => { if (last) take(last); }, 0));
})();
