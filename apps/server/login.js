// Gradio's login page says nothing when it is told to wait.
(() => {
    const plain = window.fetch;
    window.fetch = async (...asked) => {
        const answer = await plain(...asked);
        if (answer.status === 429) {
            const said = await answer.clone().json();
            const place = document.querySelector("#wait") ?? document.createElement("p");
            place.id = "wait";
            place.setAttribute("role", "alert");
            place.style.cssText = "font: 1rem system-ui, sans-serif; padding: 1rem; text-align: center";
            place.textContent = said.error;
            document.body.prepend(place);
        }
        return answer;
    };
})();
