// The gallery of the zoo: cards are filtered by family and by words.
document.addEventListener("DOMContentLoaded", () => {
    const zoo = document.querySelector(".zoo"), filter = document.querySelector(".zoo-filter");
    if (!zoo || !filter) return;
    const input = filter.querySelector("input"), count = filter.querySelector(".count");
    const buttons = [...filter.querySelectorAll("button")];
    let family = location.hash.slice(1) || "all";
    if (!buttons.some(button => button.dataset.family === family)) family = "all";
    const show = () => {
        const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
        let shown = 0;
        for (const section of zoo.querySelectorAll("section")) {
            let here = 0;
            for (const card of section.querySelectorAll(".zoo-card")) {
                const fits = (family === "all" || section.dataset.family === family)
                    && words.every(word => card.dataset.words.includes(word));
                card.hidden = !fits;
                here += fits;
            }
            section.hidden = !here;
            shown += here;
        }
        for (const button of buttons) button.classList.toggle("on", button.dataset.family === family);
        count.textContent = `${shown} norms`;
    };
    input.addEventListener("input", show);
    for (const button of buttons) button.addEventListener("click", () => { family = button.dataset.family; show(); });
    show();
});
