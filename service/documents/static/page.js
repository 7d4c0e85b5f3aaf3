// Shows the contract that the page names with the viewer beside this file.
const place = document.getElementById("asyncapi");

fetch(place.dataset.document)
  .then((answer) => {
    if (!answer.ok) throw new Error(`${place.dataset.document}: ${answer.status}`);
    return answer.json();
  })
  .then((schema) => {
    AsyncApiStandalone.render(
      {
        schema,
        config: {
          show: { sidebar: true, errors: true },
          expand: { messageExamples: true },
          sidebar: { showServers: "byDefault", showOperations: "byDefault" },
          sendLabel: "SENDS",
          receiveLabel: "RECEIVES",
        },
      },
      place,
    );
  })
  .catch((error) => {
    place.querySelector(".waiting")?.prepend(`The contract could not be shown (${error.message}). `);
  });
