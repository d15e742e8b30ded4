document.querySelectorAll(".arithmatex").forEach((element) => renderMathInElement(element));
