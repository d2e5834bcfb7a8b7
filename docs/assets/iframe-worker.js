/* Browsers start no worker from a page that was opened as a file. There the search runs in a hidden frame. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const script = "postMessage = data => parent.postMessage(data, '*');" +
        "importScripts = (...urls) => Promise.all(urls.map(url => new Promise((resolve, reject) => {" +
        "const script = document.createElement('script');" +
        "Object.assign(script, {src: url, onload: resolve, onerror: reject});" +
        "document.body.append(script) })))"
      frame.contentDocument.write(`<body><script>${script}<\/script><script src="${url}"><\/script></body>`)
      frame.contentDocument.close()
      this.frame = frame
      window.addEventListener("message", event => {
        if (event.source !== frame.contentWindow) return
        const copy = new MessageEvent("message", {data: event.data})
        this.dispatchEvent(copy)
        if (this.onmessage) this.onmessage(copy)
      })
    }
    postMessage(data) {
      const target = this.frame.contentWindow
      const send = () => target.dispatchEvent(new target.MessageEvent("message", {data}))
      this.frame.contentDocument.readyState === "complete" ? send() : this.frame.addEventListener("load", send)
    }
    terminate() { this.frame.remove() }
  }
}
