// The page stands in a frame of its own: its script cannot reach the notebook, nor the notebook's styles the page.
function render({ model, el }) {
  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-scripts");
  frame.title = "A run of devinterp";
  frame.style.cssText = `width:100%;height:${Number(model.get("height"))}px;border:1px solid #8884;display:block`;
  frame.srcdoc = model.get("html");
  const toPage = (message) => { if (frame.contentWindow) frame.contentWindow.postMessage(message, "*"); };
  // Exported HTML has no kernel to send to.
  const fromPage = (event) => {
    if (event.source !== frame.contentWindow) return;
    try { model.send(event.data); } catch (error) { /* nobody listens */ }
  };
  window.addEventListener("message", fromPage);
  model.on("msg:custom", toPage);
  el.append(frame);
  return () => {
    window.removeEventListener("message", fromPage);
    model.off("msg:custom", toPage);
  };
}
export default { render };
