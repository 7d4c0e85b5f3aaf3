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

// Payloads are what people come for: open them once the viewer has drawn, which it does in rounds.
let settled;
const drawing = new MutationObserver(() => {
  clearTimeout(settled);
  settled = setTimeout(openPayloads, 100);
});
drawing.observe(place, { childList: true, subtree: true });

function openPayloads() {
  if (!place.querySelector(".aui-root button")) return;
  drawing.disconnect();
  for (const button of place.querySelectorAll("button")) {
    const box = button.textContent.trim() === "Expand all" && button.closest(".border");
    if (box && box.textContent.startsWith("Payload")) button.click();
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
