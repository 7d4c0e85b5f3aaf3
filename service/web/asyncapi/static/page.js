// Shows the contract that the page names, with the viewer beside this file.
"use strict";

const place = document.getElementById("asyncapi");

function show(schema) {
  place.replaceChildren();
  AsyncApiStandalone.render(
    {
      schema,
      config: {
        show: { sidebar: true, messages: false, errors: true },
        expand: { messageExamples: true },
        sidebar: { showServers: "byDefault", showOperations: "byDefault" },
        receiveLabel: "IN",
        sendLabel: "OUT",
      },
    },
    place,
  );
}

// Payloads are what people come for: they stand open. The viewer draws in rounds, so this looks
// again after each, until the reader's first touch.
let settled;
const drawing = new MutationObserver(() => {
  clearTimeout(settled);
  settled = setTimeout(openPayloads, 100);
});
drawing.observe(place, { childList: true, subtree: true });
for (const touch of ["pointerdown", "keydown"]) {
  addEventListener(touch, () => drawing.disconnect(), { once: true });
}

function openPayloads() {
  for (const button of place.querySelectorAll(".border button")) {
    const isPayload = button.textContent.trim() === "Payload";
    // The chevron's twin, which says what it would do.
    const twin = isPayload && button.closest(".justify-between")?.querySelector(":scope .ml-auto");
    if (twin && twin.textContent.trim() === "Expand all") button.click();
  }
}

fetch(place.dataset.document)
  .then((answer) => {
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    return answer.json();
  })
  .then(show)
  .catch((error) => {
    const waiting = place.querySelector(".waiting") ?? place.appendChild(document.createElement("p"));
    waiting.className = "waiting";
    waiting.prepend(`The contract cannot be shown here (${error.message}). `);
  });
